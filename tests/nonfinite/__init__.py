"""Where NaN and infinities begin."""
