"""Tasks, and how references become one: crops around labels, task tokens."""
