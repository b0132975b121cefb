"""The pool: sessions on one model that share forward passes."""
