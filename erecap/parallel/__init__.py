"""Models that lie on more than one device, or are split over several processes."""
