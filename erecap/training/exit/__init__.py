"""Training of exit predictors."""
