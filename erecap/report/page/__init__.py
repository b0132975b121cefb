"""The page of a run: tables, plots and samples in one self-contained HTML file."""
