"""A static page that runs an exported file in the browser."""
