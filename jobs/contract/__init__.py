"""What all parts agree on: errors and exit codes, publishing, locks, metrics. Base dependencies only."""
