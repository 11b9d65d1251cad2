"""Who proposes points to go on from, one file for each.

`base`          what a recipe says, what is asked, and what comes of asking
`mentored`      a language model that is told the trajectory
`mutation`      the best prompts with words substituted by the tuned model
`random_words`  random words                   `perturbed`  noise around the trained prompt
`nobody`        no proposals at all
"""
