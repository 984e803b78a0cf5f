"""The composition root: settings become wired parts, and only here do parts meet."""
