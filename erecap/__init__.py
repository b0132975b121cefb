"""E-RECAP: middleware that keeps a language-model planner's replanning calls cheap."""
