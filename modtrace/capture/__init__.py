"""Recording, inside of the program that is traced: imports torch. Knows `trace` and `device_peaks` alone."""
