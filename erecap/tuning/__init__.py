"""Where in the model to drop tokens: stage sets compared by what they save and by what they change."""
