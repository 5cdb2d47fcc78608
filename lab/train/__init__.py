"""The methods, one story a file. No story imports another; what they share is imported from below."""
