"""Texts as people read them: the table of inputs and readings, and what must pass untouched."""

# ruff: noqa: RUF001 - punctuation of other scripts

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.normalizer import normalize_chinese, normalize_english
from zipvoice_jax.text.repair import repair
from zipvoice_jax.text.tokenizer import TOKENIZERS, make_tokenizer
from zipvoice_jax.text.tokens import TokenTable

GOLDEN = Path(__file__).parent / "golden"
EMILIA = TokenTable.load(GOLDEN / "tokens_emilia.txt")
DIALOG = TokenTable.load(GOLDEN / "tokens_dialog.txt")


def in_english(text: str) -> str:
    """What is spoken in the end: after the official normaliser, which gets the repaired text."""
    return " ".join(normalize_english(repair(text)).split())


ENGLISH = [
    # Money
    ("a $2.5 million deal", "a two point five million dollar deal"),
    ("$1.5B or €20bn", "one point five billion dollars or twenty billion euros"),
    ("$3.50, €0.99 and £1.01",
     "three dollars and fifty cents, ninety-nine cents and one pound and one penny"),
    ("$1,250", "one thousand two hundred fifty dollars"),
    ("$5-10 million", "five to ten million dollars"),
    ("-$5 and $100k", "minus five dollars and one hundred thousand dollars"),
    ("20€ or 100 USD or 50¢", "twenty euros or one hundred US dollars or fifty cents"),
    ("$5/month", "five dollars per month"),
    # Dates and times
    ("on 12/25/2023.", "on December twenty-fifth, twenty twenty-three."),
    ("2023-12-25 came", "December twenty-fifth, twenty twenty-three came"),
    ("25.12.1999", "December twenty-fifth, nineteen ninety-nine"),
    ("Dec. 25, 2005", "December twenty-fifth, two thousand five"),
    ("25 December", "the twenty-fifth of December"),
    ("at 3:30 pm", "at three thirty PM"),
    ("at 3:05am", "at three oh five AM"),
    ("It is 5 p.m. He left.", "It is five PM. He left."),
    ("from 15:45 on", "from fifteen forty-five on"),
    ("9:00-17:00", "nine o'clock to seventeen hundred"),
    ("9am-5pm", "nine AM to five PM"),
    ("the 1980s and '90s", "the nineteen eighties and nineties"),
    # Roman numerals
    ("Henry VIII's wives, George V and Elizabeth I.",
     "Henry the eighth's wives, George the fifth and Elizabeth the first."),
    ("World War II, World War I ended, Chapter IV.",
     "World War two, World War one ended, Chapter four."),
    ("The XIX century and the XXth century", "The nineteenth century and the twentieth century"),
    ("type II, stage III cancer, Super Bowl LVIII",
     "type two, stage three cancer, Super Bowl fifty-eight"),
    ("Rocky III, Part I.", "Rocky three, Part one."),
    ("Malcolm X, an IV drip, I love XL, Part I think so, Mary I love you",
     "Malcolm X, an IV drip, I love XL, Part I think so, Mary I love you"),
    # Temperatures, ranges, units
    ("-5 °C", "minus five degrees Celsius"),
    ("98.6°F", "ninety-eight point six degrees Fahrenheit"),
    ("20-25℃", "twenty to twenty-five degrees Celsius"),
    ("pages 5-10", "pages five to ten"),
    ("1990–2000", "nineteen ninety to two thousand"),
    ("5 km/h", "five kilometers per hour"),
    ("10kg and 1 km", "ten kilograms and one kilometer"),
    ("a 10-kg bag of 5 m²", "a ten kilogram bag of five square meters"),
    ("16 GB at 3.5 GHz", "sixteen gigabytes at three point five gigahertz"),
    # Ordinals, fractions, percentages, numbers
    ("the 21st", "the twenty-first"),
    ("2/3 and 3/4", "two thirds and three quarters"),
    ("1 1/2 cups, ½ cup", "one and a half cups, one half cup"),
    ("50% or 12.5%", "fifty percent or twelve point five percent"),
    ("5-10%", "five to ten percent"),
    ("10%-20% of 5kg-10kg", "ten percent to twenty percent of five kilograms to ten kilograms"),
    ("3.14", "three point one four"),
    ("1,234 people", "one thousand two hundred thirty-four people"),
    ("agent 007", "agent zero zero seven"),
    ("10k users", "ten thousand users"),
    ("5 + 3 = 8", "five plus three equals eight"),
    ("1920x1080", "nineteen twenty by ten eighty"),
    # Abbreviations
    ("Dr. Smith met Mrs. Jones.", "Doctor Smith met Missus Jones."),
    ("cats, e.g. lions", "cats, for example lions"),
    ("cats, dogs, etc.", "cats, dogs, et cetera."),
    ("red vs. blue", "red versus blue"),
    ("St. Louis is not on Main St.", "Saint Louis is not on Main Street."),
    ("co-workers saw the Sun. Then on Fri. they left",
     "coworkers saw the Sun. Then on Friday they left"),
    ("No. 5", "Number five"),
    ("~80 kg (5 ft)", "about eighty kilograms (five feet)"),
    # Phones, versions
    ("+1 (555) 123-4567",
     "plus one, five five five, one two three, four five six seven"),
    ("call 555-123-4567", "call five five five, one two three, four five six seven"),
    ("v2.0.1", "version two point zero point one"),
    ("Python 3.10.4", "Python three point ten point four"),
    # Links, handles
    ("#MachineLearning", "hashtag Machine Learning"),
    ("@john_doe", "at john doe"),
    ("https://www.example.com/docs?x=1.", "example dot com slash docs."),
    ("jo.b@example.com", "jo dot b at example dot com"),
    # Markup
    ("As it says[^1]: water is wet.", "As it says: water is wet."),
    ("As it says[^1].\n\n[^1]: In a book.\nSo.", "As it says. So."),
    ("**bold** and *it* and __x__ and `code`", "bold and it and x and code"),
    ("# Title\n\n- one\n- two\n\nDone", "Title. one. two. Done"),
    ("see [the docs](https://a.b/c_d_e)", "see the docs"),
    ("Tom &amp; <b>Jerry</b><br/>ran", "Tom & Jerry ran"),
    ("<p>One</p><p>Two</p>", "One. Two."),
    ("2*3*4 and 10*20*30 cm",
     "two times three times four and ten times twenty times thirty centimeters"),
    # What only looks like something else
    ("See the table (page 8). My son (aged 8) has Windows XP, <3 months.",
     "See the table (page eight ). My son (aged eight ) has Windows XP, less than three months."),
    ("221B Baker Street, seat 14B, 18K gold, my 401k and 20k-30k, 10-20k",
     "two hundred twenty-one B Baker Street, seat fourteen B, eighteen karat gold, my four oh one "
     "K and twenty thousand to thirty thousand, ten to twenty thousand"),
    ("100s of people called 200 customers, not 911. They called 911",
     "hundreds of people called two hundred customers, not nine hundred eleven . "
     "They called nine one one"),
    ("he said no. 2 of us left", "he said no. two of us left"),
    ("the 2005-06 season, pp. 12-15, a $5-billion plan",
     "the two thousand five to six season, pages twelve to fifteen, a five billion dollar plan"),
    ("the co-op has size XL", "the cooperative has size XL"),
    ("Psalm 23:1 and Matthew 5:3-12, at 5:30",
     "Psalm twenty-three, verse one and Matthew five, verses three to twelve, at five thirty"),
    # Characters
    ("Great 🎉👍🏽!!! Really??", "Great! Really?"),
    ("wait..... what?!", "wait… what?"),
    ("zero\u200bwidth soft\u00adhyphen a\u00a0b", "zerowidth softhyphen a b"),
    ("he said — well -- no", "he said, well, no"),
    ("“quoted” ‘it’", "\"quoted\" 'it'"),
]  # fmt: skip

CHINESE = [
    ("9月1日-3日放假，8点-10点", "九月一日到三日放假，八点到十点"),
    (
        "2021年-2023年，10%～20%，今天-5度",
        "二零二一年到二零二三年，百分之十到百分之二十，今天负五度",
    ),
    ("比例为1:2.5，2年级，2分之1", "比例为一比二点五，二年级，二分之一"),
    ("给老师打100分，手机10000台，电话110", "给老师打一百分，手机一万台，电话幺幺零"),
    ("有1500年的历史", "有一千五百年的历史"),
    ("5*3和4*2", "五乘三和四乘二"),
    ("这笔交易价值$2.5亿", "这笔交易价值二点五亿美元"),
    ("他赚了$2.5 million", "他赚了二百五十万美元"),
    ("一共￥99.9元", "一共九十九点九元"),
    ("于2023-12-25发布", "于二零二三年十二月二十五日发布"),
    ("在15:45开会", "在十五点四十五分开会"),
    ("下午2:05见", "下午两点零五分见"),
    ("早上9:00-12:30上课", "早上九点到十二点三十分上课"),
    ("气温-5°C", "气温零下五摄氏度"),
    ("20-25℃的天气", "二十到二十五摄氏度的天气"),
    ("有5-10个人", "有五到十个人"),
    ("2个苹果和第2名", "两个苹果和第二名"),
    ("速度5km/h", "速度五公里每小时"),
    ("重10kg的箱子", "重十公斤的箱子"),
    ("占50%或-3%", "占百分之五十或负百分之三"),
    ("10%-20%的人", "百分之十到百分之二十的人"),
    ("四舍五入是3/4", "四舍五入是四分之三"),
    ("电话13812345678", "电话幺三八，幺二三四，五六七八"),
    ("请打138-1234-5678", "请打幺三八，幺二三四，五六七八"),
    ("版本v2.0.1发布", "版本二点零点一发布"),
    ("比分3:2", "比分三比二"),
    ("**重点**是`代码`", "重点是代码"),
    ("#话题#很好😊！！！", "话题 很好！"),
    ("看[文档](http://x.com/a)吧", "看文档吧"),
    ("等等。。。好吗？？", "等等…好吗?"),
    ("你好\u200b世界", "你好世界"),
    ("我有1,234元", "我有一千二百三十四元"),
    ("5+3=8对吗", "五加三等于八对吗"),
]


@pytest.mark.parametrize(("text", "reading"), ENGLISH)
def test_english_readings(text: str, reading: str) -> None:
    assert in_english(text) == reading


@pytest.mark.parametrize(("text", "reading"), CHINESE)
def test_chinese_readings(text: str, reading: str) -> None:
    assert normalize_chinese(repair(text)).replace("？", "?") == reading


@pytest.mark.parametrize(
    "text",
    [
        "[S1] Hello there. [S2] <chang2>好, [laughter] yes.",
        "It's a well-known fact, isn't it?",
        "In 1999 I had 3 cats.",
        "我在二月有三只猫。",
        "COVID-19, F-16 and GPT-4.",
        "[S1][sigh] <ma1><ma5> [S2]ok",
        "I saw him in the sun.",
    ],
)
def test_what_is_right_already_passes_untouched(text: str) -> None:
    assert repair(text) == text


def test_mixed_text_is_read_in_the_language_of_each_sentence() -> None:
    assert repair("他花了$5。He paid $5.") == "他花了五美元。He paid five dollars."
    assert repair("$5", language="zh") == "五美元"
    assert repair("$5") == "five dollars"


def test_other_languages_get_the_markup_only() -> None:
    assert repair("**Um 15:45** 🎉 kostet's 5 €", ()) == "Um 15:45 kostet's 5 €"
    german = make_tokenizer("espeak", DIALOG, lang="de", repair=True)
    assert german.tokens("[S1] **Guten** Tag [S2] Ja") == german.tokens("[S1] Guten Tag [S2] Ja")


@pytest.mark.parametrize(
    ("text", "syllables"),
    [
        ("银行行长", "yin2 hang2 hang2 zhang3"),
        ("中国人民银行", "zhong1 guo2 ren2 min2 yin2 hang2"),
        ("我还没还钱", "wo3 hai2 mei2 huan2 qian2"),
        ("长江很长", "chang2 jiang1 hen3 chang2"),
        ("他的行为不行", "ta1 de5 xing2 wei2 bu4 xing2"),
    ],
)
def test_polyphones(text: str, syllables: str) -> None:
    tokenizer = make_tokenizer("emilia", EMILIA, repair=True)
    expected = make_tokenizer("emilia", EMILIA).tokens(
        "".join(f"<{syllable}>" for syllable in syllables.split())
    )
    assert tokenizer.tokens(text) == expected


@pytest.mark.parametrize("name", ["emilia", "dialog"])
def test_without_the_repair_tokens_are_the_official_ones(name: str) -> None:
    lines = (GOLDEN / "tokenizer.jsonl").read_text("utf-8").splitlines()
    tokenizer = make_tokenizer(name, DIALOG if name == "dialog" else EMILIA, repair=False)
    for row in map(json.loads, lines):
        if row["tokenizer"] == name and row.get("ids"):
            assert list(tokenizer.tokens(row["text"])) == row["tokens"]
    assert tokenizer.tokens("**a**") != make_tokenizer(name, DIALOG, repair=True).tokens("**a**")


_PIECES = (
    "$ 2.5 million 12/25/2023 2023-12-25 15:45 -5 °C km/h ** __ ` [S1] [S2] <ma1> [x] "
    "( ) # @ http://a.b/c a@b.com v1.2 3/4 1/0 0/0 % 99:99 13812345678 &amp; <b> </b> "
    "🎉 — … . , 。 ！ 你好 个 2 Dr. St. e.g. etc. 5-10 1,234 ½ 第 元 亿 ￥ pm \n - \\ | ~ ^ _ "
    "99999999999999999999999"
).split(" ")


@given(st.lists(st.sampled_from(_PIECES), max_size=10).map(" ".join) | st.text(max_size=30))
@settings(max_examples=30, deadline=None)
def test_any_text_can_be_repaired(text: str) -> None:
    for languages in ((), ("en",), ("zh",), ("en", "zh")):
        repaired = repair(text, languages)
        assert "\n" not in repaired
        for tag in ("[S1]", "[S2]", "<ma1>"):
            assert repaired.count(tag) >= text.count(tag)
    for name in TOKENIZERS:
        try:
            make_tokenizer(name, DIALOG, repair=True).encode(text)
        except UserError as error:
            assert len(str(error).splitlines()) == 1


def test_blocks_of_markdown_begin_after_a_tag_too() -> None:
    found = repair("[S1] - Hello there [S2] # Fine [S1] > said [S2] * [ ] milk [S1] ## Not five")
    assert found == "[S1] Hello there. [S2] Fine. [S1] said [S2] milk. [S1] Not five."
    assert repair("[S1] #5 is [S2] >3 then") == "[S1] number 5 is [S2] greater than 3 then"


def test_a_link_ends_where_a_tag_begins() -> None:
    joined = repair("[S1]See www.example.com/shop?id=3.[S2]My turn.")
    assert joined == "[S1]See example dot com slash shop. [S2]My turn."
    assert repair("[S1] Go to example.org/a%20b[S2] why?").endswith("org [S2] why?")
    assert "[laughter]" in repair("at https://a.com/b?c=1[laughter] oh")
