"""From a scan and a task to labels: sliding window, blending, decision, adapting."""
