"""Training of classifiers of whole scans."""
