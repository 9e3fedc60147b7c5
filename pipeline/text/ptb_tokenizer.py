r"""The Stanford PTB tokenizer with coco-caption's punctuation list, without Java.

`tokenize` follows `edu.stanford.nlp.process.PTBTokenizer -preserveLines -lowerCase` (CoreNLP 3.4.1, the version in
coco-caption and pycocoevalcap 1.2) and then drops the tokens that coco-caption drops. The conventions are those of the
Penn Treebank (Marcus, Santorini and Marcinkiewicz 1993): `can't` is `ca n't`, `it's` is `it 's`, `cannot` is `can not`,
brackets have names (`-lrb-`). The rules were derived from the tokenizer's output alone, as a black box;
`tests/text/make_tokenizer_fixture.py` runs it again.

Like any lexer it takes, at each position, the longest match of all rules, and the first rule among equals; text that
must follow a token counts towards the length. A token may hold a no-break space: `1 1/2`, telephone numbers and tags
are one token each. Characters that no rule matches (emoji outside the basic plane, control characters) are dropped and
separate words. American spelling is not imposed.

Known differences:

- The original reads past the end of a line: `no.` at the end of one caption is an abbreviation if the next caption
  begins with a number, `b.` loses its full stop if the next one begins with `The`. Here every text stands alone; a line
  break inside one is a space.
- Letters added to Unicode after version 6 are letters here; the original drops them.
- Soft hyphens at the edge of a word or beside digits, where the original sometimes splits.

Of 80,000 random lines of such words, numbers, quotes, emoticons and addresses, 25 differed, all in a soft hyphen or a
no-break space at the end of an address.
"""

import re

NAME = "ptb"

# Upper-case brackets never meet lower-case tokens: `-lrb-` stays, in coco-caption as here.
_PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

# Characters. A letter is one of the basic plane's (but no superscript, circled digit or the like), a soft
# hyphen, or an accented one spelled as an HTML entity. A mark may stand in a plain word, not after a hyphen.
_NO_LETTER = (
    "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070\u2074-\u2079\u2080-\u2089\u2150-\u2182\u2185-\u2189\u2460-\u24b5"
    "\u24ea-\u24ff\u2776-\u2793\u2cfd\u3007\u3021-\u3029\u3192-\u3195\u3220-\u32bf\ua830-\ua835\U00010000-\U0010ffff"
)
_ENTITY_LETTER = "&[aeiouycnAEIOUYCN](?:acute|grave|uml|circ|tilde|cedil|ring);"
_L = rf"(?:[^\W\d_{_NO_LETTER}]|\u00ad|{_ENTITY_LETTER})"
_MARK = (
    r"(?![^\W\d_])[\u02c2-\u02df\u02e5-\u036f\u0375\u0378\u0379\u0384\u0385\u03f6\u0483-\u0487\u055a-\u055f\u058a"
    r"\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0615-\u061a\u064b-\u065e\u0670\u06d6-\u06ed\u06fd\u06fe\u070f"
    r"\u0711\u0730-\u074c\u07a6-\u07b0\u07eb-\u07f3\u0900-\u0903\u093c\u093e-\u094e\u0951-\u0955\u0962\u0963"
    r"\u0981-\u0983\u09bc\u09be-\u09cd\u09d7\u09e2\u09e3\u0a01-\u0a03\u0a3c-\u0a4f\u0a81-\u0a83\u0abc\u0abe-\u0acf"
    r"\u0b82\u0bbe-\u0bcd\u0c01-\u0c03\u0c3e-\u0c56\u0d3e-\u0d48\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc"
    r"\u0ec8-\u0ecd\u2010\u2011]"
)
_SYMBOL = (
    "[\x21-\x7e\x80\x85\x91-\x94\x96\x97\u00a1-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7\u00f7\u037e\u0387"
    "\u0589\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0600-\u0603\u0606-\u060c\u0614\u061b\u061e\u061f\u066a\u066d\u06d4"
    "\u0700-\u070d\u07f6-\u07f8\u0964\u0965\u0e3f\u0e4f\u1fbd\u2013-\u2023\u2026\u2030-\u203b\u203e-\u2042\u2044\u2070"
    "\u2074-\u207e\u2080-\u208e\u20a0\u20a4\u20ac\u2100-\u214f\u2153-\u215e\u2190-\u2bff\u3001\u3002\u3012\u30fb"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6]"
)
_APOS = "(?:['\u2019\x92]|&apos;)"
_ANY_APOS = "(?:['\u2019\x92`\u2018\u201b\x91]|&apos;)"
_QUOTES = {
    **dict.fromkeys("`\u2018\u201b\u2039\x91", "`"),
    **dict.fromkeys("\u2019\u203a\x92", "'"),
    **dict.fromkeys("\u201c\u00ab\x93", "``"),
    **dict.fromkeys("\u201d\u00bb\x94", "''"),
}

# Words.
_LM = rf"(?:{_L}|{_MARK})"
_WORD = rf"(?![\u058a\u2010\u2011]){_LM}(?:{_LM}|\d)*(?:[.!?]{_LM}(?:{_LM}|\d)*)*"
_LD = rf"(?:(?!\u00ad){_L}|\d)"
_PART = rf"(?:[dDoOlL]{_ANY_APOS}{_LD})?{_LD}+"
_HYPHENED = rf"{_PART}(?:[-_]{_PART})*"
_DOTTED = r"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9\u00ad]+))+"
_COMPANY = "[A-Z]+(?:(?:&amp;|[&+])[A-Z]+)+"
_SUFFIX = "(?:'(?i:[msd]|ll|re|ve)(?![A-Za-z])|(?:[\u2019\x92]|&apos;)(?i:[msd]|ll|re|ve))"
_SIDES = r"[A-Za-z0-9][A-Za-z0-9\u00ad]*(?:-[A-Za-z]+){0,2}"
_NUMBER = r"(?:(?:\d[\d\u00ad]*)?(?:[.:,\u066b\u066c]\d[\d\u00ad]*)+|\d[\d\u00ad]*)"

# Abbreviations: titles and the like; those that may end a sentence; those that stand before a number.
_TITLE = (
    "(?:(?i:adj|ad[mv]|alex|asst|assoc|attys?|ave|brig|capt|cf|cmdr|col|comdr|cpl|dept|det|drs?|elec|ens|ft|gen|govs?|"
    "hon|insp|invt|jos|lieut|lt|maj|messrs|mlle|mme|mrs?|ms|msgr|mt|natl|pfc|ph|pres|profs?|pvt|reps?|rev|sens?|sfc|"
    "sgt|spc|ste?|supts?|treas|vs|wm)|[Mm][ft]g)"
)
_ENDING = (
    r"(?:(?i:ph\.d|ala?|apr|ariz|assn|aug|bancorp|bhd|bldg|blvd|bros|calif|cie|cos?|colo|conn|corp|ct|dak|dec|esq|est|"
    r"etc|ext|feb|fla|fri|ga|in[cd]|intl|jan|jr|ju[ln]|kans?|ky|ltd|mar|md|mich|minn|mo|mon|mont|neb|nev|nov|oct|okla|"
    r"penn|plc|rd|rt|sept?|seq|s[qr]|sys|tel|tenn|thu|thurs|tues?|univ|va|vt|wed|wisc?|wyo)|[Pp]p?tes?|[Pp]p?tys?|"
    r"A(?i:rk|z)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass|iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash))"
)
_NUMBERED = "(?i:art|ca|figs?|nos?|op|pp|prop)"
_OPENER = (
    r"M[RrSs]\.|(?=[A-Z])(?i:an?|as|at|he|if|in|it|so|we|but|her|now|one|our|she|the|yet|you|here|last|many|more|once|"
    r"some|such|that|then|they|this|what|when|about|according|additionally|after|earlier|however|other|since|their|"
    r"there|these|while)"
)

# Addresses, tags and emoticons.
_URL = r'[^ \t\n\f\r"<>|(){}]+[^ \t\n\f\r"<>|.!?(){},-]'
_PATH = r'(?:/[^ \t\n\f\r"<>|()]+[^ \t\n\f\r"<>|.!?(){},-])?'
_HOST = r"[#%&*+~a-z\u0080-\U0010ffff]+\."
_WWW = r'[^ \t\n\f\r"<>|.!?(){},]+\.'
_DOMAIN = r'[^ \t\n\f\r"<>|(){}.\u00a0]+'
_TAG_NAME = r"[A-Za-z][A-Za-z0-9_:.\-]*"
_TAG = (
    rf"<[!?][A-Za-z-][^>\r\n]*>|</{_TAG_NAME} *>|"
    rf"<{_TAG_NAME}(?: +{_TAG_NAME}(?:= *(?:'[^']*'|\"[^\"]*\"))?)* */?>"
)
_EYE = "[-^x=~<>'\u2019]"
_FILE_TYPE = (
    "(?i:bat|bmp|cgi|class|cpp|css|dll|docx?|exe|gif|gz|html?|jar|java|jpe?g|js|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|"
    "tar|tex|tgz|txt|wav|xml|zip|[chx])"
)

_URL_LIKE = (
    rf"(?i:https?)://{_URL}|"
    rf"(?:(?i:www)\.(?:{_WWW})+[A-Za-z]{{2,4}}|(?:{_HOST})+(?i:com|net|org|edu)){_PATH}"
)
_PHONE = (
    r"(?:\(\d{2,3}\)[ \u00a0]?|\+{0,2}(?:\d{2,4}[- \u00a0])?\d{2,4}[- \u00a0])\d{3,4}[- \u00a0]?\d{3,5}|"
    r"(?:\+{0,2}\d{2,4}\.)?\d{2,4}\.\d{3,4}\.\d{3,5}"
)
_CLIPPED = (
    f"{_APOS}(?:em|cause|til|n{_APOS})|[ldj]{_APOS}|(?:dunkin|somethin|ol){_APOS}|"
    f"c{_APOS}mon|e{_APOS}er|s{_APOS}mores|ev{_APOS}ry|li{_APOS}l|nat{_APOS}l|cap{_APOS}n|o{_ANY_APOS}o"
)

# Every rule is a class, which decides how the token is written (see `_normalize`), and a pattern: the group that
# matched is the token, and text outside it must follow.
_RULES = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        # <b>, <a href="x">
        ("tag", rf"({_TAG})"),
        # can|not, gon|na, 't|is
        ("word", "(?i:(can)not|(gon|wan)na|(got)ta|(lem|gim)me|('t)(?:is|was))"),
        # plain words; before 's, 'll and the like; before n't
        ("word", rf"({_WORD})"),
        ("word", rf"({_WORD}){_APOS}(?i:[msd]|ll|re|ve)"),
        ("word", rf"([A-Za-z\u00ad]*[A-MO-Za-mo-z])[nN]{_ANY_APOS}[tT]"),
        # those endings themselves
        ("suffix", rf"([nN]{_ANY_APOS}[tT]|{_SUFFIX})"),
        # '08, '90s
        ("word", rf"({_APOS}\d\d)[ \t\n]|({_APOS}[2-9]0[sS])"),
        # 'em, ol', c'mon; y'|all; rock 'n
        ("word", f"((?i:{_CLIPPED}))"),
        ("word", f"([yY]{_APOS})[A-Za-z]|([\u2019\x92][nN])|('[nN])[ \t\n\u00a0]"),
        # O'Brien, Hawai'i
        ("word", f"([A-HJ-XZn]{_ANY_APOS}{_L}{{2,}}|{_L}+[aeiouyAEIOUY]{_ANY_APOS}[aeiouA-Z]{_L}*)"),
        # http://a.b, a@b.c, @name and #topic
        ("address", f"({_URL_LIKE})"),
        ("address", rf"((?:<|&lt;)?[A-Za-z0-9][^ \t\n\f\r\"<>|()\u00a0{{}}]*@(?:{_DOMAIN}\.)*{_DOMAIN}>?)"),
        ("address", f"(@[A-Za-z_][A-Za-z_0-9]*|#{_L}+)"),
        # 5, -3.5, 1,000, 12:30
        ("word", rf"([-+]?\u00ad*{_NUMBER})"),
        # etc. (before hyphened words, which may be as long as what must follow)
        ("word", rf"({_ENDING}\.)[\s\S]{{2}}"),
        # snow-covered, 4x4, o'clock; U.S.-based, 3.5-inch; and/or
        ("word", f"({_HYPHENED})"),
        ("word", f"({_DOTTED})"),
        ("word", rf"({_SIDES}(?:\\?/{_SIDES}){{1,2}})"),
        # 1 1/2; 555-123 4567
        ("compound", r"((?:\d{1,4}[- \u00a0])?\d{1,4}(?:\\?/|\u2044)\d{1,4})"),
        ("compound", f"({_PHONE})"),
        # U.S.; 4.jpg; the B of "plan B. The next"
        ("word", r"([A-Za-z](?:\.[A-Za-z])*\.)"),
        ("word", rf"({_LD}+(?:\.{_LD}+)*\.{_FILE_TYPE})[\s,.?!]"),
        ("word", rf"([A-Za-z])\.\s+(?:{_OPENER}|{_TAG})\s"),
        # Mr., anti-; no. 5; any word with a full stop before a comma
        ("word", rf"({_TITLE}\.|(?i:anti-|pro-|s&p-500))"),
        ("word", rf"({_NUMBERED}\.)[^\S\n]?\d"),
        ("word", rf"((?:{_WORD}|{_HYPHENED}|{_DOTTED}|{_COMPANY})\.)[,;:\u3001]"),
        # :-) and ^_^
        ("compound", r"([<>]?[:;=][-o'*]?[()DPdpO\\{@|\[\]])[^A-Za-z0-9]"),
        ("compound", rf"({_EYE}_{_EYE}|\({_EYE}(?:[_.]?{_EYE}|-[-^x=~<>'`])\))"),
        # -lrb-, US$, C++, AT&T
        ("word", rf"((?i:-[LR][RSC]B-)|[A-Z]+\$|[cCfF]#|[cC]\+\+|\\\*|{_COMPANY})"),
        # entities, runs of one mark, quotes, and what is left
        ("symbol", "(&(?i:lt|gt|amp|quot|apos|nbsp|mdash);)"),
        ("word", r"(&#\d+;|[!?]+|-{5,}|\*+|#+|@+|_+|<<|>>|[\u00b2\u00b3\u00b9]+)"),
        ("symbol", r"(\.{3,5}|\.(?:[ \u00a0]\.){2,4}|-{2,4}|'')"),
        ("quotes", f"([{''.join(_QUOTES)}]{{1,2}})"),
        ("symbol", f"({_SYMBOL})"),
    )
)
_SYMBOLS = {
    **dict.fromkeys(('"', "''", "&quot;", "&apos;", "&nbsp;", "&mdash;", "\x85", "\u2026"), ""),
    **dict.fromkeys("\x96\x97\u2013\u2014\u2015", ""),
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{"&lt;": "<", "&gt;": ">", "&amp;": "&", "\u00a2": "cents", "\u00a3": "#"},
    **dict.fromkeys("\x80\u00a4\u20a0\u20ac", "$"),
    **{"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"},
}
# Fast path: most of a caption is plain words and the punctuation between them, which need none of the rules above.
_WORD_IN_ONE = r"(?!(?i:cannot|gonna|gotta|wanna|lemme|gimme)(?![A-Za-z]))[A-Za-z]+"
_BLANK = r"[ \t][ \t\u00a0]*"
_PLAIN = re.compile(
    rf"((?:{_WORD_IN_ONE}(?=[ \n]|[,;][ \n])(?:{_BLANK})?)+|(?!(?i:[a-z]|{_TITLE}|{_ENDING})\.){_WORD_IN_ONE}(?=\.\n))|"
    rf"{_BLANK}|[.,;](?=\n| [^.])"
)


def tokenize(text: str) -> list[str]:
    """The lower-case tokens of one caption, without punctuation."""
    # Two line ends stand for the next caption, which some rules read.
    text = text.replace("\n", " ") + "\n\n"
    tokens: list[str] = []
    position, end = 0, len(text) - 2
    while position < end:
        plain = _PLAIN.match(text, position)
        if plain is not None:
            position = plain.end()
            if plain[1]:
                tokens += plain[1].lower().split()
            continue
        token, name = _longest_match(text, position)
        position += max(len(token), 1)
        normalized = _normalize(token, name)
        if normalized and normalized not in _PUNCTUATION:
            tokens.append(normalized)
    return tokens


def _longest_match(text: str, position: int) -> tuple[str, str]:
    """The token at `position` and its class; an empty token where no rule matches."""
    token, name, furthest = "", "", position
    for rule, pattern in _RULES:
        found = pattern.match(text, position)
        if found is not None and found.end() > furthest:
            token, name, furthest = found[found.lastindex or 0], rule, found.end()
    return token, name


def _normalize(token: str, name: str) -> str:
    """The Penn Treebank's form of a token of class `name`."""
    if name == "symbol":
        token = _SYMBOLS.get(token.lower(), token if len(token) == 1 else "")
    elif name == "quotes":
        token = "".join(_QUOTES[character] for character in token)
    elif name == "suffix":
        token = re.sub("[\u2019\x92]|&apos;", "'", re.sub("[\u2018\u201b\x91]", "`", token))
    elif name == "compound":
        token = token.replace(" ", "\u00a0").replace("(", "-lrb-").replace(")", "-rrb-").replace("\u00ad", "")
    elif name == "tag":
        token = token.replace(" ", "\u00a0")
    elif name == "word":
        token = token.replace("&amp;", "&").replace("\u00ad", "")
    return token.lower()
