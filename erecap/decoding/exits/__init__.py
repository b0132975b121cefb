"""Early exit: tokens named before the last layer, finished and verified later."""
