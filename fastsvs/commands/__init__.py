"""The commands, a module for each: the only room whose modules are its doors, each imported when it is asked for."""
