"""The household environment: the ALFWorld engine on games generated from real floor plans. See README.md."""
