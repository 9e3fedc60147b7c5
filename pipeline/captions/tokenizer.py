"""Captions to tokens."""

import re

NAME = "ptb"

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

ENTITY_LETTER = "&[aeiouyAEIOUYcCnN](?:acute|grave|uml|circ|tilde|cedil|ring);"
NOT_LETTERS = (
    "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070\u2074-\u2079\u2080-\u2089\u2150-\u215f\u2189\u2460-\u24b5\u24ea-\u24ff"
    "\u2776-\u2793\u2cfd\u3007\u3021-\u3029\u3192-\u3195\u3220-\u32bf\ua830-\ua835"
)
L = rf"(?:[^\W\d_{NOT_LETTERS}\U00010000-\U0010ffff]|\u00ad|{ENTITY_LETTER})"
MARK = (
    "[\u02c2-\u02c5\u02d2-\u02df\u02e5-\u036f\u0375\u0378\u0379\u0384\u0385\u03f6\u0483-\u0487\u055a-\u055f\u058a"
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0615-\u061a\u064b-\u065e\u0670\u06d6-\u06ed\u06fd\u06fe\u070f"
    "\u0711\u0730-\u074c\u07a6-\u07b0\u07eb-\u07f3\u0900-\u0903\u093c\u093e-\u094e\u0951-\u0955\u0962\u0963"
    "\u0981-\u0983\u09bc\u09be-\u09cd\u09d7\u09e2\u09e3\u0a01-\u0a03\u0a3c-\u0a4f\u0a81-\u0a83\u0abc\u0abe-\u0acf\u0b82"
    "\u0bbe-\u0bcd\u0c01-\u0c03\u0c3e-\u0c56\u0d3e-\u0d48\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc"
    "\u0ec8-\u0ecd]"
)
D = r"[\d\u00ad]"
LD = f"(?:{L}|{D})"
LM = f"(?:{L}|{MARK})"
APOS = "(?:['\u2019\u0092]|&apos;)"
ANYAPOS = "(?:['\u2019\u0092`\u2018\u201b\u0091]|&apos;)"
END = "[^A-Za-z]"
WORD = rf"{LM}(?:{LM}|{D})*(?:[.!?]{LM}(?:{LM}|{D})*)*"
NUM = rf"(?:{D}*(?:[.:,\u066b\u066c]{D}+)+|{D}+)"
A = "[A-Za-z0-9\u00ad]"
PART = rf"(?:[dDoOlL]{APOS}{LD})?{LD}+"
THING = rf"{PART}(?:[-_]{PART})*"
DOTTED = r"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9\u00ad]+))+"
SUFFIX = f"(?:'(?i:[msd]|ll|re|ve)(?![A-Za-z])|(?:[\u2019\u0092]|&apos;)(?i:[msd]|ll|re|ve))"
EYE = "[-^x=~<>'\u2019]"
TITLES = (
    "(?:(?i:adj|ad[mv]|alex|asst|assoc|attys?|ave|brig|capt|cf|cmdr|col|comdr|cpl|dept|det|drs?|elec|ens|ft|gen|govs?|hon|"
    "insp|invt|jos|lieut|lt|maj|messrs|mlle|mme|mrs?|ms|msgr|mt|natl|pfc|ph|pres|profs?|pvt|reps?|rev|sens?|sfc|sgt|spc|"
    "st|ste|supts?|treas|vs|wm)|[Mm]fg|[Mm]tg)"
)
ENDING = (
    "(?:(?i:ph\.d|ala?|apr|ariz|assn|aug|bancorp|bhd|bldg|blvd|bros|calif|cie|cos?|colo|conn|corp|ct|dak|dec|esq|est|etc|ext|feb|fla|fri|"
    "ga|in[cd]|intl|jan|jr|ju[ln]|kans?|ky|ltd|mar|md|mich|minn|mo|mon|mont|neb|nev|nov|oct|okla|penn|plc|"
    "rd|rt|sept?|seq|sq|sr|sys|tel|tenn|thu|thurs|tues?|univ|va|vt|wed|wisc?|wyo)|[Pp]p?tes?|[Pp]p?tys?|"
    "A(?i:rk|z)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass|iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash))"
)
NUMBERED = "(?i:art|ca|figs?|nos?|op|pp|prop)"
ACRO = r"[A-Za-z](?:\.[A-Za-z])*"
URLCHAR = r'[^ \t\n\f\r"<>|(){}]'
URLEND = r'[^ \t\n\f\r"<>|.!?(){},-]'
HOST = r"[#%&*+~a-z\u0080-\uffff]"
WWW = r'[^ \t\n\f\r"<>|.!?(){},]'
PATHCHAR = r'[^ \t\n\f\r"<>|()]'
DOMAIN = r'[^ \t\n\f\r"<>|(){}.\u00a0]'
NAMECHAR = r"[A-Za-z0-9_:.\-]"
MAILCHAR = r'[^ \t\n\f\r"<>|()\u00a0{}]'

RULES: list[tuple[str, str]] = [
    ("tag", rf"(<[!?][A-Za-z-][^>\r\n]*>|<[A-Za-z]{NAMECHAR}*(?: +[A-Za-z]{NAMECHAR}*(?:= *(?:'[^']*'|\"[^\"]*\"))?)* */?>|</[A-Za-z]{NAMECHAR}* *>)"),
    ("assim", r"([cC][aA][nN])[nN][oO][tT]|((?i:gon|wan))(?i:na)|((?i:got))(?i:ta)|((?i:lem|gim))(?i:me)"),
    ("tis", rf"('[tT])(?:[iI][sS]|[wW][aA][sS])"),
    ("word", rf"({WORD})"),
    ("suffixed", rf"({WORD}){SUFFIX}"),
    ("not", rf"([A-Za-z\u00ad]*[A-MO-Za-mo-z])[nN]{ANYAPOS}[tT]"),
    ("n't", rf"([nN]{ANYAPOS}[tT])"),
    ("suffix", rf"({SUFFIX})"),
    ("year", rf"({APOS}\d\d)[ \t\n]|({APOS}[2-9]0[sS])"),
    ("apos", rf"((?i:{APOS}n{APOS}?|[ldj]{APOS}|dunkin{APOS}|somethin{APOS}|ol{APOS}|{APOS}em|{APOS}cause|{APOS}til|c{APOS}mon|[eo]{APOS}er|ne{APOS}er|s{APOS}mores|ev{APOS}ry|li{APOS}l|nat{APOS}l|o{APOS}o|y{APOS}|cap{APOS}n))"
             if False else rf"((?i:[ldjy]{APOS}|dunkin{APOS}|somethin{APOS}|ol{APOS}|{APOS}em|{APOS}cause|{APOS}til|c{APOS}mon|e{APOS}er|s{APOS}mores|ev{APOS}ry|li{APOS}l|nat{APOS}l|o{APOS}o|cap{APOS}n|{APOS}n{APOS}))"),
    ("'n", rf"({APOS}[nN])[ \t\n\u00a0]"),
    ("O'Brien", rf"([A-HJ-XZn]{APOS}{L}{{2,}}|{L}+[aeiouyAEIOUY]{APOS}[aeiouA-Z]{L}*)"),
    ("url", rf"((?i:https?)://{URLCHAR}+{URLEND}|(?:(?i:www)\.(?:{WWW}+\.)+[A-Za-z]{{2,4}}|(?:{HOST}+\.)+(?i:com|net|org|edu))(?:/{PATHCHAR}+{URLEND})?)"),
    ("mail", rf"(<?[A-Za-z0-9]{MAILCHAR}*@(?:{DOMAIN}+\.)*{DOMAIN}+>?)"),
    ("twitter", rf"(@[A-Za-z_][A-Za-z_0-9]*|#{L}+)"),
    ("file", rf"({LD}+(?:\.{LD}+)*\.(?i:bat|bmp|c(?![A-Za-z0-9])|cgi|class|cpp|css|dll|doc|docx|exe|gif|gz|h|htm|html|jar|java|jpe?g|js|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|tex|tgz|txt|wav|x|xml|zip))"),
    ("number", rf"([-+]?{NUM})"),
    ("ending", rf"({ENDING}\.)[\s\S][\s\S]"),
    ("thing", rf"({THING})"),
    ("dotted", rf"({DOTTED})"),
    ("slash", rf"({A}+(?:-[A-Za-z]+){{0,2}}(?:\\?/{A}+(?:-[A-Za-z]+){{0,2}}){{1,2}})"),
    ("fraction", rf"((?:\d{{1,4}}[- \u00a0])?\d{{1,4}}(?:\\?/|\u2044)\d{{1,4}})"),
    ("phone", r"((?:\(\d{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:\d{2,4}[- \u00a0])?\d{2,4}[- \u00a0])\d{3,4}[- \u00a0]?\d{3,5}|(?:(?:\+\+?)?\d{2,4}\.)?\d{2,4}\.\d{3,4}\.\d{3,5})"),
    ("acronym", rf"({ACRO}\.|{ACRO}\.[A-Za-z]+(?:-{LD}+)*)"),
    ("title", rf"({TITLES}\.|(?i:anti|pro)-|[sS]&[pP]-500)"),
    ("numbered", rf"({NUMBERED}\.)[^\S\n]?\d"),
    ("insent", rf"((?:{WORD}|{THING}|{DOTTED}|[A-Z]+(?:[&+][A-Z]+)+)\.)[,;:\u3001]"),
    ("smiley", rf"([<>]?[:;=][-o'*]?[()DPdpO\\{{@|\[\]])[^A-Za-z0-9]"),
    ("smiley2", rf"({EYE}_{EYE}|\({EYE}(?:[_.]?{EYE}|-[-^x=~<>'`])\))"),
    ("bracket", r"((?i:-[LR][RSC]B-))"),
    ("cash", r"([A-Z]+\$|[cCfF]#|[cC]\+\+)"),
    ("amp", r"([A-Z]+(?:(?:&amp;|[&+])[A-Z]+)+)"),
    ("entity", r"(&(?i:lt|gt|amp|quot|apos|nbsp|mdash);|&#\d+;)"),
    ("runs", r"([!?]+|\.{3,5}|\.(?:[ \u00a0]\.){2,4}|-+|\*+|#+|@+|_+|<<|>>|'')|([`\u2018\u2019\u201b\u201c\u201d\u2039\u203a\u00ab\u00bb\x91-\x94]{1,2}|\\\*|[\u00b2\u00b3\u00b9]+)"),
    ("one", "([\x21-\x7e\x80\x85\x91-\x94\x96\x97\u00a1-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7\u00f7\u037e\u0387\u0589\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0600-\u0603\u0606-\u060c\u0614\u061b\u061e\u061f\u066a\u066d\u06d4\u0700-\u070d\u07f6-\u07f8\u0964\u0965\u0e3f\u0e4f\u1fbd\u2013-\u2023\u2026\u2030-\u203b\u203e-\u2042\u2044\u2070\u2074-\u207e\u2080-\u208e\u20a0\u20a4\u20ac\u2100-\u214f\u2153-\u215e\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6]|" + MARK + ")"),
]
COMPILED = [(name, re.compile(rule)) for name, rule in RULES]
FAST = re.compile(r"\s*([A-Za-z]+)(?=[ \n]|[,;:?!.] *\n)")
PLAIN = {"'": "", "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "\u00a2": "cents", "\u00a3": "#",
   "\u00bd": "1/2", "\u00bc": "1/4", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3", "\u20ac": "$", "\u0080": "$", "\u00a4": "$", "\u20a0": "$"}
QUOTES = frozenset("'\"`\u2018\u2019\u201a\u201b\u201c\u201d\u2039\u203a\u00ab\u00bb\x91\x92\x93\x94\u2013\u2014\u2015\x96\x97\u2026\x85") - {"\u201a"}
CURLY = {"`": "`", "\u2018": "`", "\u2019": "'", "\u201b": "`", "\u201c": "``", "\u201d": "''", "\u2039": "`", "\u203a": "'", "\u00ab": "``", "\u00bb": "''", "\x91": "`", "\x92": "'", "\x93": "``", "\x94": "''"}
ENT = {"&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": "", "&apos;": "", "&nbsp;": "", "&mdash;": ""}

def tokenize_named(text: str) -> list[tuple[str, str]]:
    text = text.replace("\n", " ") + "\n\n"
    tokens = []
    at, end = 0, len(text) - 2
    while at < end:
        best, length, who = "", 0, ""
        for name, rule in COMPILED:
            m = rule.match(text, at)
            if m and m.end() - at > length:
                length = m.end() - at
                best = m[m.lastindex]
                who = name
        if not best:
            at += 1
            continue
        at += len(best)
        t = best
        if who == "one": 
            t = "" if t in QUOTES else PLAIN.get(t, t)
        elif who in ("entity",): t = ENT.get(t.lower(), t)
        elif who == "runs" and t[0] not in CURLY:
            if t[0] == "." or t[0] == "-" and len(t) < 5: t = ""
        elif who in ("n't", "suffix"):
            t = re.sub("[\u2019\x92]|&apos;", "'", t); t = re.sub("[\u2018\u201b\x91]", "`", t)
        elif t[0] in CURLY: t = "".join(CURLY.get(c, c) for c in t)
        elif who in ("amp",): t = t.replace("&amp;", "&")
        elif who in ("tag", "fraction", "phone"): t = t.replace(" ", "\u00a0")
        if who in ("phone", "smiley", "smiley2"): t = t.replace("(", "-lrb-").replace(")", "-rrb-")
        if who not in ("mail", "url", "twitter"): t = t.replace("\u00ad", "")
        t = t.lower()
        if t and t not in PUNCTUATION: tokens.append((t, who))
    return tokens

def tokenize(text: str) -> list[str]:
    return [t for t, _ in tokenize_named(text)]
