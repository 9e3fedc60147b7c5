"""Records the output of the Stanford PTB tokenizer in tokenizer_fixture.json, against which `tokenize` is tested.

A development script. It needs Java, pycocoevalcap 1.2, whose wheel has the tokenizer's jar, and the captions of
Flickr8k and coco-mini. The tests only read the fixture:

    python tests/text/make_tokenizer_fixture.py --data ../shared/data

`pairs` holds texts and their tokens: the lines below, their words, and the captions with more than plain words, each
followed by a plain line, so that no other line affects it. `digests` holds a sha256 for each block of 1,000 captions
of the two datasets, tokenized file by file as in coco-caption.
"""

import argparse
import csv
import hashlib
import importlib.util
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
FIXTURE = HERE / "tokenizer_fixture.json"
BLOCK = 1000
JAR = "stanford-corenlp-3.4.1.jar"
# coco-caption's list.
PUNCTUATION = "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;"
ORDINARY = "x y"

HAND_MADE = r"""
can't won't don't it's I'm we've they'll he'd shan't ain't isn't CAN'T IT'S didn'tx 5's b.'s U.S.'s
can’t don‘t it`s it’s ’s dogs’ it´s can&apos;t y'all'd I'd've shouldn't've he'd'nt
gonna gotta wanna cannot gimme lemme gonna. cannot's cannoto 'tis 'twas 'Tis 'twasn't more'n d'ye
d'you wannabe
the dogs' toys James's James' the boss's dog
rock'n'roll rock 'n' roll 'n o'clock O'Brien o'er ma'am y'all 'em 'til 'bout 'cause '90s '99 '08
90's the '90s.
fo'c'sle jack-o'-lantern Hallowe'en d'Artagnan l'eau Dunkin' Donuts jumpin' playin' Hawai'i Xi'an
ol' man c'mon li'l
'hello' "hello" ''hello'' ``hello`` `hello' ‘hello’ “hello” «hello» ‹hello› „hello“ ‚hello‘ “‘hello’”
""hello"" \"""hello""\" '"hello"' \"hello\" \'hello\'
Mr. Mrs. Ms. Dr. Jr. Sr. St. Co. Inc. Prof. No. 5 No. Fig. 3 pp. 7 vs. etc. i.e. e.g. a.m. p.m.
U.S. Ph.D. Jan. May. Sat.
a man at 5 p.m.
he lives in the U.S. The dog does not.
on plan B. The next one. plan B. the next. sits on a. Then a. dog
e.g., i.e.; abc., abc.: x no.
No. No No.5 no. five
1,000 3.5 1/2 2-3 50% $5 #1 1,000,000.50 .5 -5 +5 -.5 1.2.3 10:30 10:30pm 5pm 3rd 1st 20s 1920's
1/2/2003 2003-10-10
3x4 3*4 3+4=7 2^2 £5 €5 ¥5 5¢ 5° 5°C 1 1/2 11 3/4 1-1/2 ½ 1½ 1 ½ ¾ ⅓ ² x² 5′6″ 5'6" 5ft. 3.5mm
3.5-mm 1,000th
555-1234 555-555-1234 (555) 555-1234 +1 555 555 1234 1-800-555-1234 555.555.1234 100 200 300 10 20 30
snow-covered a- -a a--b a-b-c 5-year-old U.S.-based Jr.-sized non-U.S. can't-miss a_b-c rock-n-roll
mid-'90s X-ray's
é-a T-shirts e-mail black-and-white t-shirt/shorts pick-me-up well- known a–b a—b anti-war anti- pro-'x
http://www.example.com/a?b=c www.example.com example.com foo@bar.com https://a.b/c, (http://a.b/c)
HTTP://A.B example.org.
@foo #bar @foo_bar #foo_bar foo_bar b.com/xyz b.com/x www.b.io/xy a@b.c, <a@b.c> ftp://x.y
photo.jpg 5.jpg IMG_5.jpg a.b.c
:) :( ;-) :-P :D XD =) <3 :-) 8-) :'( >:( ^_^ -_- o_O \o/ (: ): :] :/ :o :3 (^_^) :Day :P5
....5 --5 ... .. .... . . . … a...b wait... -- - --- ---- ----- – — a--b a - b ! !! ?! ??? ., ,,
(a) [b] {c} a(b)c a[b]c a{b}c -LRB- -lrb- -RRB- (a [b {c
and/or a/b a/b/c his/her w/ w/o c/o n/a km/h 24/7 / // \ \\ a\b a-b/c-d 1/2/a black/white.
a & b AT&T R&D &amp; &lt; &gt; &quot; &apos; &nbsp; &#39; &eacute; &a a&b a & amp; B&B M&M's
AT&amp;T caf&eacute; A+B
* ** *** a*b *a* **a** ~ ~a a~b ^ a^b _ __ a_b _a_ | a|b = == + ++ a+b c++ C# @ a@b % %a a%b $ a$b
$a # ## a#b \* US$5 A$
<b>bold</b> <br> <br/> <p class="x">hi</p>
<!-- x --> < > a<b a>b <= -> => << >> <unk> <start> <a href='x'> </b> <?xml?> <5>
colour grey centre theatre honour favourite neighbour travelled organise analyse programme cheque
naïve café Zoë jalapeño Ångström Straße ΟΔΟΣ русский 中文 日本語 العربية हिन्दी 한국어 ไทย e\u0301a
\U0001f600 a\U0001f600b ☺ ❤\ufe0f ★ ☀ \U0001f468\u200d\U0001f469 a☺b © ® ™ § ¶ • · ← → × ÷ ± µ
a\u00a0b \u00a0 a\u200bb a\u2009b a\tb a\u0007b so\u00adft 5\u00ad5 \ufeffa a\u3000b 1\u00a01/2 \u00ad
a man , in red . a dog; a cat: two ( 2 ) people ! who ? " quoted "
A man's dog's collar. The girls' team. It's John's.
NULL NA None nan 0012 true
"""


def ask(texts: list[str], jar: Path) -> list[list[str]]:
    """The jar's tokens of each text, less coco-caption's punctuation."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write("\n".join(text.replace("\n", " ") for text in texts).encode())
        file.flush()
        options = ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
        done = subprocess.run(["java", "-cp", str(jar), *options, file.name], capture_output=True, check=True)
    lines = done.stdout.decode().split("\n")[: len(texts)]
    if len(lines) != len(texts):
        raise SystemExit(f"{len(texts)} texts in, {len(lines)} lines out")
    dropped = {"", *PUNCTUATION.split()}
    return [[token for token in line.rstrip().split(" ") if token not in dropped] for line in lines]


def ask_alone(texts: list[str], jar: Path) -> list[list[str]]:
    """Like `ask`, with an ordinary line after each text, because the jar reads past the end of a line."""
    return ask([line for text in texts for line in (text, ORDINARY)], jar)[::2]


def read_flickr8k(path: Path) -> list[str]:
    """Kaggle's captions, in the order of the file."""
    with path.open(newline="", encoding="utf-8") as file:
        return [row["caption"] for row in csv.DictReader(file)]


def read_coco(folder: Path) -> list[str]:
    """The captions of both annotation files, in the order of the files' names."""
    files = sorted(folder.glob("captions_*2017.json"))
    contents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return [annotation["caption"] for content in contents for annotation in content["annotations"]]


def digests(tokens: list[list[str]]) -> list[str]:
    """A sha256 for each block of captions; a caption is its tokens with spaces between, on one line."""
    lines = [" ".join(caption) + "\n" for caption in tokens]
    blocks = ("".join(lines[start : start + BLOCK]) for start in range(0, len(lines), BLOCK))
    return [hashlib.sha256(block.encode()).hexdigest() for block in blocks]


def tricky(captions: list[str]) -> Iterator[str]:
    """Each caption that shows a word shape or mark not shown by an earlier one."""
    seen: set[str] = set()
    for caption in captions:
        shapes = {re.sub("[A-Z]+", "A", re.sub("[a-z]+", "a", word)) for word in caption.split()}
        if not shapes <= seen:
            seen |= shapes
            yield caption


def find_jar() -> Path:
    """The tokenizer in the installed pycocoevalcap."""
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("pycocoevalcap is not installed: pip install pycocoevalcap==1.2, or give --jar")
    return Path(package.submodule_search_locations[0]) / "tokenizer" / JAR


def main() -> None:
    """Ask the jar and write the fixture."""
    parser = argparse.ArgumentParser(description="Ask the Stanford PTB tokenizer and write the fixture.")
    parser.add_argument("--data", type=Path, required=True, help="holds flickr8k-captions/ and coco-mini/")
    parser.add_argument("--jar", type=Path, help=f"{JAR}; by default the installed pycocoevalcap's")
    options = parser.parse_args()
    jar = options.jar or find_jar()
    datasets = {
        "flickr8k": read_flickr8k(options.data / "flickr8k-captions" / "captions.txt"),
        "coco-mini": read_coco(options.data / "coco-mini" / "annotations"),
    }
    escaped = re.compile(r"\\(u[0-9a-f]{4}|U[0-9a-f]{8}|t)")
    lines = [
        escaped.sub(lambda code: "\t" if code[1] == "t" else chr(int(code[1][1:], 16)), line)
        for line in HAND_MADE.strip().split("\n")
    ]
    words = list(dict.fromkeys(word for line in lines for word in line.split(" ") if not word.isalpha()))
    found = [text for captions in datasets.values() for text in tricky(captions)]
    texts = list(dict.fromkeys([*lines, *words, *found]))
    pairs = list(zip(texts, ask_alone(texts, jar), strict=True))
    content = {
        "pairs": pairs,
        "digests": {name: digests(ask(captions, jar)) for name, captions in datasets.items()},
    }
    rows = ",\n".join(json.dumps(pair, ensure_ascii=True) for pair in pairs)
    others = json.dumps(content["digests"], indent=1)
    FIXTURE.write_text(f'{{"pairs": [\n{rows}\n],\n"digests": {others}}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
