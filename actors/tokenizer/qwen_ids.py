"""Ids of Qwen3's tokenizer that others have published, for folders that have it: its closing token says so.

All were published by several projects and reproduced from the public vocabulary. A tokenizer that gives others makes
the model read other words than were written.
"""

QUERIES = ("What is the capital of China?", "Explain gravity")
DOCUMENTS = (
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and is "
    "responsible for the movement of planets around the sun.",
)

END_OF_TEXT = 151643
INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
INSTRUCTED = (641, 1235, 25, 16246, 264, 3482, 2711, 3239, 11, 17179, 9760, 46769, 429, 4226, 279, 3239, 198, 2859, 25)
# The second and third are q1 and q2 of the README with their instruction.
TOKEN_IDS = {
    "test": (1944, END_OF_TEXT),
    INSTRUCTION + QUERIES[0]: (*INSTRUCTED, 3838, 374, 279, 6722, 315, 5616, 30, END_OF_TEXT),
    INSTRUCTION + QUERIES[1]: (*INSTRUCTED, 840, 20772, 23249, END_OF_TEXT),
    DOCUMENTS[0]: (785, 6722, 315, 5616, 374, 26549, 13, END_OF_TEXT),
}
TOKEN_COUNTS = {DOCUMENTS[1]: 31}
# Of every pair that a reranker reads: the system prompt in front, and what closes it.
PAIR_PREFIX = (
    *(151644, 8948, 198, 60256, 3425, 279, 11789, 20027, 279, 8502, 3118, 389, 279, 11361, 323, 279, 758, 1235, 3897),
    *(13, 7036, 429, 279, 4226, 646, 1172, 387, 330, 9693, 1, 476, 330, 2152, 3263, 151645, 198, 151644, 872, 198),
)
PAIR_SUFFIX = (151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271)
YES_AND_NO = (9693, 2152)
