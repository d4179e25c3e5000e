"""What knows nothing of photos: console, atomic files, locks, locations, downloads."""
