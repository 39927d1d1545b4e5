"""Models, one file each: settings, parameters, and the list of steps."""
