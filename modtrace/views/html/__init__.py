"""The report, one HTML file: Python that chooses and packs the data, and the page's own JavaScript and CSS."""
