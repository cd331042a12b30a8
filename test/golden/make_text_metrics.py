"""Writes test/golden/text-metrics.json: text pairs and what the reference implementations say about them.

    pip install rapidfuzz==3.14.6 sacrebleu==2.6.0 nltk==3.10.4 rouge-score==0.1.2
    python test/golden/make_text_metrics.py

METEOR runs without WordNet (no synonyms); words for BLEU, GLEU and METEOR are mteval-v13a's. Pairs in Chinese carry only
what needs no words, and BLEU with sacrebleu's own Chinese tokens.
"""

import json
import random
from importlib.metadata import version
from pathlib import Path

from nltk.stem.porter import PorterStemmer
from nltk.translate.gleu_score import sentence_gleu
from nltk.translate.meteor_score import single_meteor_score
from rapidfuzz import fuzz
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import sentence_bleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a


class NoSynonyms:
    def synsets(self, word):
        return []


WORDS = (
    "the a cat cats dog dogs running ran runs quickly quick happiness happy relational conditional agreed plastered "
    "motoring hopping falling skies dying lies tried trying national nationalize geology geologist hopefully fully "
    "electrical electricity adjustment replacement adoption controlling rolls 3.14 1,000 e-mail state-of-the-art it's "
    "Mr. U.S. $5 (yes) [no] \"quoted\" semi; colon: what? wow! 10-20 x=y a/b & < > 50% #1"
).split()
ROUGES = ["rouge1", "rouge2", "rouge3", "rouge4", "rouge5", "rougeL"]
FIXED = [
    ("The cat sat on the mat.", "The cat sat on the mat."),
    ("the the the the the the the", "the cat is on the mat"),
    ("It is a guide to action which ensures that the military always obeys the commands of the party",
     "It is a guide to action that ensures that the military will forever heed Party commands"),
    ("hello", "world"),
    ("", "something"),
    ("something", ""),
    ("", ""),
    ("a", "a"),
    ("Numbers 1,000.50 and 3.14, dashes 10-20 and e-mail.", "Numbers 1,000.5 or 3.14; dashes 10 - 20 and email!"),
    ("Tom &amp; Jerry &lt;3 \"cheese\"", "Tom & Jerry <3 'cheese'"),
    ("line one\nline two", "line one line two"),
    ("running quickly happily", "run quick happy"),
]
CHINESE = [
    ("今天天气很好", "今天的天气非常好"),
    ("我喜欢吃苹果。", "我喜欢吃香蕉和苹果。"),
]


def pairs():
    rng = random.Random(7)
    yield from FIXED
    for _ in range(40):
        reference = [rng.choice(WORDS) for _ in range(rng.randint(1, 18))]
        hypothesis = [w if rng.random() < 0.7 else rng.choice(WORDS) for w in reference]
        if rng.random() < 0.5:
            i = rng.randrange(len(hypothesis))
            hypothesis = hypothesis[i:] + hypothesis[:i]
        if rng.random() < 0.3:
            hypothesis = hypothesis[: max(1, len(hypothesis) // 2)]
        yield " ".join(hypothesis), " ".join(reference)


def main():
    words = Tokenizer13a()
    scorer = RougeScorer(ROUGES, use_stemmer=False)
    rows = []
    for text, reference in pairs():
        ours, theirs = words(text).split(), words(reference).split()
        rouge = scorer.score(reference, text)
        rows.append({
            "input": text,
            "reference": reference,
            "fuzzy_match": fuzz.ratio(text, reference) / 100,
            "bleu": sentence_bleu(text, [reference]).score / 100,
            "gleu": sentence_gleu([theirs], ours),
            "meteor": single_meteor_score(theirs, ours, wordnet=NoSynonyms()),
            **{f"rouge_{name[5:].lower()}": rouge[name].fmeasure for name in ROUGES},
        })
    for text, reference in CHINESE:
        rows.append({
            "input": text,
            "reference": reference,
            "fuzzy_match": fuzz.ratio(text, reference) / 100,
            "bleu": sentence_bleu(text, [reference], tokenize="zh").score / 100,
        })
    stemmer = PorterStemmer()
    vocabulary = sorted({w.lower() for w in " ".join(WORDS).replace("-", " ").split() if w.isalpha()} | set(
        "caresses ponies ties cats feed bled sing conflated troubled sized tanned hissing fizzed failing filing spied "
        "rational valenci hesitanci digitizer conformabli radicalli differentli vileli analogousli vietnamization "
        "predication operator feudalism decisiveness hopefulness callousness formaliti sensitiviti sensibiliti "
        "triplicate formative formalize electriciti hopeful goodness revival allowance inference airliner gyroscopic "
        "adjustable defensible irritant dependent homologou communism activate angulariti homologous effective "
        "bowdlerize probate rate cease controll roll enjoy enjoyment flies spy sky news innings succeed by yes "
        "generalizations oscillators syzygy toy analogy usefully dies died owed add ebb".split()))
    packages = ["rapidfuzz", "sacrebleu", "nltk", "rouge-score"]
    out = {
        "made_with": {name: version(name) for name in packages},
        "pairs": rows,
        "stems": {word: stemmer.stem(word) for word in vocabulary},
    }
    path = Path(__file__).parent / "text-metrics.json"
    path.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
    print(f"{len(rows)} pairs, {len(vocabulary)} stems -> {path.name}")


main()
