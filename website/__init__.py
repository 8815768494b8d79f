"""What makes the documentation's site, and the pages that are written by the code."""
