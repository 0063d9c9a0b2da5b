"""An installed package of somebody else's: a method and a network."""
