"""What every room stands on: errors, progress, the spec, labels, files that appear whole."""
