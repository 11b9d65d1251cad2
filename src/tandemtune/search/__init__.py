"""The search: who moves what in which order, and what is remembered of it.

`loop`      the loop that everything goes through
`turns`     what one turn does: a generation, a gradient step
`proposals` what it does where somebody proposes where to go on
`guard`     who looks at dev, and whether a gain there is enough
`state`     where a search stands; what a checkpoint holds
`replay`    records that are there already, and those that are made now
`stretches` several stretches, one after another, and what is handed over
`schedule`  stages, phases, and whose turn it is
`words`     points read as prompts of words
"""
