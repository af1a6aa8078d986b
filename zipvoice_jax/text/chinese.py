"""Chinese as people read it: money, dates, times, units, ranges and more in characters.

Rules as in `zipvoice_jax.text.english`; what no rule matches is left to the official normaliser
(cn2an).
"""

# ruff: noqa: RUF001 - Chinese

import decimal
import re

from zipvoice_jax.text.normalizer import chinese_number
from zipvoice_jax.text.rules import Rule, any_of, rule

_DIGITS = "零一二三四五六七八九"
_N = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
_DASH = r"\s?[-–—−~～到至]\s?"
_Q = rf"(?<![\d.,:/])(?P<sign>(?<![A-Za-z0-9)])[-−–])?(?P<a>{_N})(?:{_DASH}(?P<b>{_N}))?"
_CURRENCIES = {
    "US$": "美元", "HK$": "港元", "A$": "澳元", "C$": "加元", "NT$": "新台币", "S$": "新加坡元",
    "$": "美元", "€": "欧元", "£": "英镑", "¥": "元", "￥": "元", "₹": "卢比", "₩": "韩元",
    "₽": "卢布", "฿": "泰铢", "USD": "美元", "EUR": "欧元", "GBP": "英镑", "RMB": "元人民币",
    "CNY": "元", "HKD": "港元", "JPY": "日元", "KRW": "韩元",
}  # fmt: skip
_MAGNITUDES = {"thousand": 3, "k": 3, "million": 6, "m": 6, "billion": 9, "b": 9, "bn": 9,
               "trillion": 12, "t": 12}  # fmt: skip
_UNITS = {
    "km/h": "公里每小时", "kmh": "公里每小时", "kph": "公里每小时", "mph": "英里每小时",
    "m/s": "米每秒", "km": "公里", "m": "米", "cm": "厘米", "mm": "毫米", "nm": "纳米",
    "μm": "微米", "µm": "微米", "ft": "英尺", "in": "英寸", "mi": "英里", "km²": "平方公里",
    "km2": "平方公里", "m²": "平方米", "m2": "平方米", "㎡": "平方米", "cm²": "平方厘米",
    "m³": "立方米", "m3": "立方米", "cm³": "立方厘米", "kg": "公斤", "g": "克", "mg": "毫克",
    "t": "吨", "lb": "磅", "lbs": "磅", "oz": "盎司", "L": "升", "l": "升", "ml": "毫升",
    "mL": "毫升", "h": "小时", "min": "分钟", "s": "秒", "ms": "毫秒", "Hz": "赫兹", "kHz": "千赫",
    "MHz": "兆赫", "GHz": "吉赫", "W": "瓦", "kW": "千瓦", "MW": "兆瓦", "kWh": "千瓦时", "V": "伏",
    "mA": "毫安", "mAh": "毫安时", "KB": "千字节", "MB": "兆", "GB": "吉字节", "TB": "太字节",
    "Mbps": "兆比特每秒", "Gbps": "吉比特每秒", "dB": "分贝", "kcal": "千卡", "Pa": "帕",
    "kPa": "千帕", "hPa": "百帕", "px": "像素", "㎏": "公斤", "㎝": "厘米", "㎞": "公里",
    "㎜": "毫米",
}  # fmt: skip
# Measure words; two of them are 两.
_MEASURES = (
    "个只条张件位次天周年种本块座间台辆份杯瓶碗包袋盒箱双对副层排行句段篇首部家所名岁倍点颗粒棵朵"
    "匹头群支枝根把套户桶盆片页小分千万亿"
)


def number(text: str) -> str:
    """Characters of a written number such as 1,234.05; digit by digit after the point."""
    whole, _, rest = text.replace(",", "").partition(".")
    if len(whole) > 15 or (len(whole) > 1 and whole[0] == "0"):
        words = digits(whole)
    else:
        words = chinese_number(int(whole or 0))
    return words + (f"点{digits(rest)}" if rest else "")


def digits(text: str) -> str:
    """Digits one by one."""
    return "".join(_DIGITS[int(d)] for d in text if d.isdigit())


def _measured(text: str) -> str:
    """A number before a measure word: two is 两."""
    return "两" if text == "2" else number(text)


def _span(m: re.Match[str], minus: str = "负") -> str:
    words = (minus if m["sign"] else "") + number(m["a"])
    return f"{words}到{number(m['b'])}" if m["b"] else words


def _date(year: str, month: int, day: int) -> str | None:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return f"{digits(year)}年{number(str(month))}月{number(str(day))}日"


def _iso(m: re.Match[str]) -> str:
    return _date(m[1], int(m[3]), int(m[4])) or m[0]


def _slashed(m: re.Match[str]) -> str:
    first, second = int(m[1]), int(m[3])
    if first > 12:
        first, second = second, first
    return _date(m[4], first, second) or m[0]


def _time(m: re.Match[str]) -> str:
    hour, minute = int(m["h"]), int(m["m"])
    words = ""
    half = (m["half"] or "").strip().lower()[:1]
    if half:
        words = "上午" if half == "a" else "下午"
    words += f"{_measured(str(hour))}点"
    if minute:
        words += f"{'零' if minute < 10 else ''}{number(str(minute))}分"
    if m["s"]:
        words += f"{'' if minute else '零分'}{number(str(int(m['s'])))}秒"
    return words


def _phone(m: re.Match[str]) -> str:
    groups = re.findall(r"\d+", m[0])
    if len(groups) == 1 and len(groups[0]) == 11:
        groups = [groups[0][:3], groups[0][3:7], groups[0][7:]]
    plus = "加" if m[0].lstrip().startswith("+") else ""
    return plus + "，".join(digits(group) for group in groups).replace("一", "幺")


def _money(m: re.Match[str]) -> str:
    name = _CURRENCIES[m["cur"].upper()]
    sign = "负" if m["sign"] else ""
    mags = [(m[group] or "").strip() for group in ("mag", "mag2")]
    first = _scaled(m["a"], mags[0])
    if m["b"]:
        return f"{sign}{first}到{_scaled(m['b'], mags[1])}{name}"
    return f"{sign}{first}{name}"


def _scaled(text: str, magnitude: str) -> str:
    """A number with its magnitude: 万 and 亿 as they are, million multiplied out."""
    if not magnitude:
        return number(text)
    if magnitude.lower() not in _MAGNITUDES:
        return _measured(text) + magnitude
    value = decimal.Decimal(text.replace(",", "")).scaleb(_MAGNITUDES[magnitude.lower()])
    for size, name in ((8, "亿"), (4, "万")):
        if value >= 10**size:
            part = value.scaleb(-size).normalize()
            if -part.as_tuple().exponent <= 2:  # type: ignore[operator]
                return number(f"{part:f}") + name
    return number(f"{value.normalize():f}")


def _temperature(m: re.Match[str]) -> str:
    kind = m["c"].strip(" °º").upper()
    if kind in ("F", "℉"):
        return f"{'零下' if m['sign'] else ''}华氏{_span_unsigned(m)}度"
    name = "摄氏度" if kind in ("C", "℃") else "度"
    return f"{'零下' if m['sign'] else ''}{_span_unsigned(m)}{name}"


def _span_unsigned(m: re.Match[str]) -> str:
    return number(m["a"]) + (f"到{number(m['b'])}" if m["b"] else "")


def _percent(m: re.Match[str]) -> str:
    head = "负百分之" if m["sign"] else "百分之"
    words = head + number(m["a"])
    return f"{words}到百分之{number(m['b'])}" if m["b"] else words


def _unit(m: re.Match[str]) -> str:
    if m["b"] or m["sign"]:
        return _span(m) + _UNITS[m["u"]]
    return _measured(m["a"]) + _UNITS[m["u"]]


def _range(m: re.Match[str]) -> str:
    first, second = m["a"], m["b"]
    if re.match(r"\s*[=＝]", m.string[m.end() :]):
        return f"{number(first)}减{number(second)}"
    rest = m.string[m.end() : m.end() + 1]
    if re.fullmatch(r"[12]\d{3}", first) and re.fullmatch(r"[12]\d{3}", second):
        return f"{digits(first)}到{digits(second)}"
    if rest in _MEASURES and rest:
        return f"{_measured(first)}到{_measured(second)}"
    return f"{number(first)}到{number(second)}"


def _version(m: re.Match[str]) -> str:
    words = "点".join(map(number, m["n"].split(".")))
    before = m.string[: m.start()].rstrip()
    return words if not m["v"] or before.endswith(("版", "版本")) else f"版本{words}"


def _fraction(m: re.Match[str]) -> str:
    top, bottom, whole = m["top"], m["bottom"], (m["whole"] or "").strip()
    if int(bottom) < 2:
        return m[0]
    words = f"{number(bottom)}分之{number(top)}"
    return f"{number(whole)}又{words}" if whole else words


_MAG = (
    r"\s?(?:thousand|million|billion|trillion)(?![A-Za-z])|[千百十]?[万亿]|(?:k|m|bn|b)(?![A-Za-z])"
)
_SIGNS = any_of(name for name in _CURRENCIES if not name.isalpha())
_CODES = any_of(name for name in _CURRENCIES if name.isalpha())
_HALF = r"(?P<half>\s?[ap]\.?m\.?)?"
_NO = r"(?![\dA-Za-z])"
_I = re.IGNORECASE

# After a number, what makes it a quantity and no telephone number.
_COUNTED = "分元人台部架条次字折个万亿"

RULES: tuple[Rule, ...] = (
    # A range with its measure at both ends: 9月1日-3日, 8点-10点, 10%~20%.
    rule(r"(?<=\d)([\u4e00-\u9fff]{1,2}|\s?[%％℃℉])\s?[-–—−~～]\s?(?=\d)", r"\1到"),
    rule(r"(?<!\d)[~～≈](?=\d)", "约"),
    rule(r"(?<![\d.-])([12]\d{3})([-/.])(\d{1,2})\2(\d{1,2})(?:T(?=\d))?(?![\d-]|[./]\d)", _iso),
    rule(r"(?<![\d./-])(\d{1,2})([-/.])(\d{1,2})\2([12]\d{3})(?![\d-]|[./]\d)", _slashed),
    rule(
        rf"(?<![\d:])(?P<h>\d{{1,2}}):(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d))?{_HALF}{_DASH}(?=\d{{1,2}}:\d\d)",
        lambda m: _time(m) + "到",
        _I,
    ),
    rule(
        rf"(?<![\d:])(?P<h>[01]?\d|2[0-4])[:：](?P<m>[0-5]\d)(?:[:：](?P<s>[0-5]\d))?{_HALF}(?![\d:])",
        _time,
        _I,
    ),
    rule(
        rf"(?<![\d.:])({_N})\s?[:：]\s?({_N})(?![\d:])",
        lambda m: f"{number(m[1])}比{number(m[2])}",
    ),
    # Phone numbers.
    rule(r"(?:\+|(?<!\d))86[\s-]?1[3-9]\d[\s-]?\d{4}[\s-]?\d{4}(?!\d)", _phone),
    rule(r"(?<![\d.,])1[3-9]\d[\s-]?\d{4}[\s-]?\d{4}(?![\d.])", _phone),
    rule(r"(?<![\d.])\+\d[\d\s-]{6,16}\d(?!\d)", _phone),
    rule(
        r"(?<![\d.])(?:\(?0\d{2,3}\)?[\s-]?\d{7,8}|[48]00[\s-]\d{3,4}[\s-]?\d{3,4})(?!\d)", _phone
    ),
    rule(r"(?<![\d.-])\d+(?:-\d+){2,}(?![\d-])", _phone),
    rule(
        r"(?<=[话号码机线])([:：是为]?\s?)(\d{3,4}[- ]?\d{3,4}(?:[- ]?\d{3,4})?|\d{5,})"
        rf"(?![\d{_COUNTED}])",
        lambda m: m[1] + digits(m[2]).replace("一", "幺"),
    ),
    rule(
        rf"(?<=[拨打])([打了]?\s?)(\d{{3,6}})(?![\d{_COUNTED}])",
        lambda m: m[1] + digits(m[2]).replace("一", "幺"),
    ),
    rule(
        rf"(?<=电话)([:：是为]?\s?)(1\d\d)(?![\d.{_COUNTED}])",
        lambda m: m[1] + digits(m[2]).replace("一", "幺"),
    ),
    rule(r"(?<![\d.,])\d{12,}(?![\d.,万亿])", lambda m: digits(m[0])),
    # Versions.
    rule(r"(?<![A-Za-z])(?P<v>[vV])(?P<n>\d+(?:\.\d+)*)(?![\d.]*\d)", _version),
    rule(r"(?<![\d.])(?P<v>)(?P<n>\d+(?:\.\d+){2,})(?![\d.]*\d)", _version),
    # Money.
    rule(
        rf"(?P<sign>(?<![A-Za-z0-9)])[-−])?(?P<cur>{_SIGNS})\s?(?P<a>{_N})(?P<mag>{_MAG})?"
        rf"(?:{_DASH}(?:{_SIGNS})?(?P<b>{_N})(?P<mag2>{_MAG})?)?(?:美元|元|欧元|英镑)?{_NO}",
        _money,
        _I,
    ),
    rule(
        rf"(?P<sign>(?<![A-Za-z0-9)])[-−])?(?P<a>{_N})(?P<mag>{_MAG})?(?P<b>(?!))?(?P<mag2>(?!))?"
        rf"\s?(?P<cur>{_CODES}|[€£¥￥$]){_NO}",
        _money,
    ),
    rule(
        rf"(?<![A-Za-z])(?P<sign>)(?P<cur>{_CODES})\s?(?P<a>{_N})(?P<mag>{_MAG})?"
        rf"(?P<b>(?!))?(?P<mag2>(?!))?{_NO}",
        _money,
    ),
    # Numbers followed by a unit or a sign.
    rule(rf"(?<=\d)([千百十]?[万亿]){_DASH}(?=\d)", r"\1到"),
    rule(rf"(?<=\d)(\s?(?:{any_of(_UNITS)}|°\s?[CF]|[℃℉%％元])){_DASH}(?=[\d.])", r"\1到"),
    rule(rf"{_Q}(?P<c>\s?[°º]\s?[CcFf](?![A-Za-z])|\s?[℃℉]|\s?[°º])", _temperature),
    rule(rf"{_Q}\s?[%％]", _percent),
    rule(rf"{_Q}\s?‰", lambda m: f"千分之{number(m['a'])}"),
    rule(rf"{_Q}\s?(?P<u>{any_of(_UNITS)}){_NO}", _unit),
    rule(rf"(?<![\d.])({_N})\s?[x×X*]\s?(?={_N})", lambda m: f"{number(m[1])}乘"),
    rule(
        r"(?<![\d./-])(?P<whole>\d+\s+)?(?P<top>\d{1,9})\s?/\s?(?P<bottom>\d{1,9})(?![\d/]|[.,]\d)",
        _fraction,
    ),
    rule(rf"(?<![\d.,/-])(?P<a>{_N}){_DASH}(?P<b>{_N})(?![\d/-]|[.,]\d)", _range),
    rule(r"(?i:No\.?|№|#)\s?(\d+)", lambda m: f"{number(m[1])}号"),
    rule(r"(?<=[/／])(人|天|年|月|日|次|小时|分钟|秒|个|元|斤|公斤|平方米|米|升)", r"每\1"),
    rule(r"[/／](?=每)", ""),
    # Signs.
    rule(
        r"(?<=[\d点零一二三四五六七八九十百千万亿)])\s?[+＋]\s?(?=[\d(零一二三四五六七八九十])",
        "加",
    ),
    rule(
        r"(?<=[\d)零一二三四五六七八九十百千万亿])\s?[=＝]\s?(?=[\d(零一二三四五六七八九十负-])",
        "等于",
    ),
    rule(r"\s?÷\s?", "除以"),
    rule(r"\s?(?:≥|>=)\s?", "大于等于"),
    rule(r"\s?(?:≤|<=)\s?", "小于等于"),
    rule(r"\s?>\s?(?=\d)", "大于"),
    rule(r"\s?<\s?(?=\d)", "小于"),
    rule(r"\s?≈\s?", "约等于"),
    rule(r"\s?±\s?", "正负"),
    rule(r"(?<=[\d万亿多])\+", "多"),
    rule(r"\s?&\s?", "和"),
    rule(r"@(?=[\u4e00-\u9fff])", "艾特"),
    # The numbers that are left.
    rule(rf"(?<![\d.,第])2(?=[{_MEASURES}](?!月|号|日|级|之))", "两"),
    rule(r"(?<![A-Za-z0-9.,)])[-−](\d+(?:\.\d+)?)(?!\d|\.\d)", lambda m: "负" + number(m[1])),
    rule(r"(?<![\d.,A-Za-z])(\d{1,3}(?:,\d{3})+(?:\.\d+)?)(?![\d.])", lambda m: number(m[1])),
    rule(r"(?<![\d.A-Za-z])(\d+\.\d+)(?![\d.])", lambda m: number(m[1])),
    # A year or a number that the official front end would read in the language of the word before.
    rule(r"(?<![\d.A-Za-z])([12]\d{3})(?=\s?年的?历史)", lambda m: number(m[1])),
    rule(r"(?<![\d.A-Za-z])([12]\d{3})(?=\s?年)", lambda m: digits(m[1])),
    rule(r"(?<=\s)(\d+)(?=[\u4e00-\u9fff])", lambda m: number(m[1])),
)
