"""What an application's repository gets from the toolkit: the files that travel with it, and those that `invoke init` writes."""
