"""Calibration: measuring on this machine what calls cost, for the cost model."""
