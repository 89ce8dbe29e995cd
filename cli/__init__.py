"""What stands behind ./portcullis. Importing it takes the standard library alone, so --help needs nothing installed."""
