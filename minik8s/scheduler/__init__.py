"""The scheduler: gives each pod a node that can take it, the pods of one owner spread apart."""
