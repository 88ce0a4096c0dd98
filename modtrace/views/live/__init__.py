"""Behind the live screen: the script on a terminal of its own, its output, and the texts of title and steps."""
