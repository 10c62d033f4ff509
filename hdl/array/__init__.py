"""The multiply-accumulate array: product tables, adder trees and the loader that fills the tables."""
