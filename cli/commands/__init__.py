"""The commands, a module for each group. Their modules import nothing heavy; the functions do."""
