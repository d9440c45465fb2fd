"""Figures and tables, one module each. Each writes a PDF, a PNG, and a CSV of the numbers drawn."""
