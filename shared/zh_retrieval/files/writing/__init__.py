"""Records and their vectors into files, window by window, so that what was done is kept."""
