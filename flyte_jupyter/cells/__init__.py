"""From a cell's text to what travels: names read, names bound, values captured."""
