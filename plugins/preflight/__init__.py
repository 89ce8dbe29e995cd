"""Validation of a whole deployment on the control node, before anything is touched.

`specs` reads what the roles declare, `shapes` compares a value with its declaration, `meanings` says what a value may
hold, `rules` compares values, facts and files with each other, `report` puts the problems together.
"""
