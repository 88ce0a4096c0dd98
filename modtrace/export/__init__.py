"""A trace in forms that other tools read: a file a format. `methods` lists the formats, `target` writes the file."""
