"""Steepest descent in norms other than the Euclidean one: signs and orthogonal matrices."""
