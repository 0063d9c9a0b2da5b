"""An installed package of somebody else's: one of each thing that can be added."""
