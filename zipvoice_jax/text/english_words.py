"""Tables for `zipvoice_jax.text.english`: abbreviations, currencies, magnitudes, months, units."""

MONTHS = tuple(
    "January February March April May June July August September October November December".split()
)
MAGNITUDES = {
    "hundred": "hundred", "thousand": "thousand", "k": "thousand", "million": "million",
    "m": "million", "mn": "million", "mm": "million", "billion": "billion", "b": "billion",
    "bn": "billion", "trillion": "trillion", "t": "trillion", "tn": "trillion",
}  # fmt: skip
# Singular and plural of the currency, and of its hundredth if people say it.
CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "US$": ("US dollar", "US dollars", "cent", "cents"),
    "A$": ("Australian dollar", "Australian dollars", "cent", "cents"),
    "C$": ("Canadian dollar", "Canadian dollars", "cent", "cents"),
    "HK$": ("Hong Kong dollar", "Hong Kong dollars", "cent", "cents"),
    "NZ$": ("New Zealand dollar", "New Zealand dollars", "cent", "cents"),
    "S$": ("Singapore dollar", "Singapore dollars", "cent", "cents"),
    "R$": ("real", "reais", "centavo", "centavos"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "", ""),
    "￥": ("yuan", "yuan", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "", ""),
    "₽": ("ruble", "rubles", "kopek", "kopeks"),
    "₿": ("bitcoin", "bitcoins", "", ""),
    "₺": ("lira", "lira", "", ""),
    "₪": ("shekel", "shekels", "", ""),
    "₫": ("dong", "dong", "", ""),
    "฿": ("baht", "baht", "", ""),
    "₴": ("hryvnia", "hryvnias", "", ""),
    "USD": ("US dollar", "US dollars", "cent", "cents"),
    "AUD": ("Australian dollar", "Australian dollars", "cent", "cents"),
    "CAD": ("Canadian dollar", "Canadian dollars", "cent", "cents"),
    "HKD": ("Hong Kong dollar", "Hong Kong dollars", "cent", "cents"),
    "EUR": ("euro", "euros", "cent", "cents"),
    "GBP": ("pound", "pounds", "penny", "pence"),
    "JPY": ("yen", "yen", "", ""),
    "CNY": ("yuan", "yuan", "", ""),
    "RMB": ("yuan", "yuan", "", ""),
    "INR": ("rupee", "rupees", "paisa", "paise"),
    "KRW": ("won", "won", "", ""),
    "CHF": ("Swiss franc", "Swiss francs", "", ""),
    "RUB": ("ruble", "rubles", "kopek", "kopeks"),
    "BTC": ("bitcoin", "bitcoins", "", ""),
    "¢": ("cent", "cents", "", ""),
}
CURRENCY_CODES = tuple(code for code in CURRENCIES if code.isalpha() and code.isascii())
UNITS = {
    "km": ("kilometer", "kilometers"), "m": ("meter", "meters"), "cm": ("centimeter",
    "centimeters"),
    "mm": ("millimeter", "millimeters"), "µm": ("micrometer", "micrometers"),
    "μm": ("micrometer", "micrometers"), "nm": ("nanometer", "nanometers"), "mi": ("mile", "miles"),
    "ft": ("foot", "feet"), "yd": ("yard", "yards"), "inch": ("inch", "inches"),
    "sq ft": ("square foot", "square feet"), "ha": ("hectare", "hectares"),
    "kg": ("kilogram", "kilograms"), "g": ("gram", "grams"), "mg": ("milligram", "milligrams"),
    "µg": ("microgram", "micrograms"), "μg": ("microgram", "micrograms"),
    "lb": ("pound", "pounds"), "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces"),
    "t": ("ton", "tons"), "L": ("liter", "liters"), "l": ("liter", "liters"),
    "ml": ("milliliter", "milliliters"), "mL": ("milliliter", "milliliters"),
    "cl": ("centiliter", "centiliters"), "dl": ("deciliter", "deciliters"),
    "gal": ("gallon", "gallons"), "tsp": ("teaspoon", "teaspoons"),
    "tbsp": ("tablespoon", "tablespoons"),
    "kph": ("kilometer per hour", "kilometers per hour"),
    "kmh": ("kilometer per hour", "kilometers per hour"),
    "mph": ("mile per hour", "miles per hour"), "mpg": ("mile per gallon", "miles per gallon"),
    "Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"), "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"), "W": ("watt", "watts"), "kW": ("kilowatt", "kilowatts"),
    "MW": ("megawatt", "megawatts"), "GW": ("gigawatt", "gigawatts"),
    "Wh": ("watt hour", "watt hours"), "kWh": ("kilowatt hour", "kilowatt hours"),
    "MWh": ("megawatt hour", "megawatt hours"), "V": ("volt", "volts"), "kV": ("kilovolt",
    "kilovolts"),
    "mV": ("millivolt", "millivolts"), "mA": ("milliamp", "milliamps"),
    "mAh": ("milliamp hour", "milliamp hours"), "Ω": ("ohm", "ohms"), "kΩ": ("kilohm", "kilohms"),
    "bit": ("bit", "bits"), "KB": ("kilobyte", "kilobytes"), "kB": ("kilobyte", "kilobytes"),
    "MB": ("megabyte", "megabytes"), "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"), "PB": ("petabyte", "petabytes"),
    "KiB": ("kibibyte", "kibibytes"), "MiB": ("mebibyte", "mebibytes"),
    "GiB": ("gibibyte", "gibibytes"), "kbps": ("kilobit per second", "kilobits per second"),
    "Mbps": ("megabit per second", "megabits per second"),
    "Gbps": ("gigabit per second", "gigabits per second"), "dB": ("decibel", "decibels"),
    "s": ("second", "seconds"), "sec": ("second", "seconds"), "secs": ("second", "seconds"),
    "ms": ("millisecond", "milliseconds"), "µs": ("microsecond", "microseconds"),
    "ns": ("nanosecond", "nanoseconds"), "min": ("minute", "minutes"),
    "mins": ("minute", "minutes"), "h": ("hour", "hours"), "hr": ("hour", "hours"),
    "hrs": ("hour", "hours"), "yr": ("year", "years"), "yrs": ("year", "years"),
    "px": ("pixel", "pixels"), "fps": ("frame per second", "frames per second"),
    "rpm": ("revolution per minute", "revolutions per minute"), "dpi": ("dot per inch",
    "dots per inch"),
    "bpm": ("beat per minute", "beats per minute"), "ppm": ("part per million",
    "parts per million"),
    "kcal": ("kilocalorie", "kilocalories"), "cal": ("calorie", "calories"),
    "Pa": ("pascal", "pascals"), "hPa": ("hectopascal", "hectopascals"),
    "kPa": ("kilopascal", "kilopascals"), "psi": ("pound per square inch",
    "pounds per square inch"),
    "kJ": ("kilojoule", "kilojoules"), "hp": ("horsepower", "horsepower"),
    "mmHg": ("millimeter of mercury", "millimeters of mercury"),
}  # fmt: skip
# Keyed by the short form in lower case, without its full stop.
ABBREVIATIONS = {
    "dr": "doctor", "mr": "mister", "mrs": "missus", "ms": "miz", "prof": "professor",
    "st": "saint", "jr": "junior", "sr": "senior", "gen": "general", "col": "colonel",
    "sgt": "sergeant", "capt": "captain", "lt": "lieutenant", "maj": "major", "cmdr": "commander",
    "rev": "reverend", "hon": "honorable", "gov": "governor", "sen": "senator",
    "rep": "representative", "pres": "president", "esq": "esquire", "supt": "superintendent",
    "mt": "mount", "ft": "fort", "ave": "avenue", "blvd": "boulevard", "rd": "road",
    "inc": "incorporated", "ltd": "limited", "co": "company", "corp": "corporation",
    "dept": "department", "assn": "association", "bros": "brothers", "univ": "university",
    "vs": "versus", "etc": "et cetera", "e.g": "for example", "i.e": "that is", "eg": "for example",
    "ie": "that is", "approx": "approximately", "est": "established", "a.k.a": "also known as",
    "cf": "compare", "ca": "circa", "al": "al", "fig": "figure", "figs": "figures",
    "vol": "volume", "ch": "chapter", "sec": "section", "pp": "pages", "ed": "edition",
    "ext": "extension", "tel": "telephone", "hrs": "hours", "min": "minutes", "max": "maximum",
    "no": "number", "nos": "numbers", "mon": "Monday", "tue": "Tuesday", "tues": "Tuesday",
    "wed": "Wednesday", "thu": "Thursday", "thurs": "Thursday", "fri": "Friday",
    "sat": "Saturday", "sun": "Sunday", "jan": "January", "feb": "February", "mar": "March",
    "apr": "April", "jun": "June", "jul": "July", "aug": "August", "sep": "September",
    "sept": "September", "oct": "October", "nov": "November", "dec": "December",
}  # fmt: skip
# Some short forms are words that end sentences too ("Sit in the sun."): these count as short forms
# only before what they belong to.
BEFORE_NAME = frozenset(
    "dr mr mrs ms prof gen col sgt capt lt maj cmdr rev hon gov sen rep pres supt mt ft".split()
)
BEFORE_NUMBER = frozenset("no nos fig figs vol ch sec pp ext tel".split())
ANYWHERE = frozenset(
    "etc vs e.g i.e approx a.k.a cf jr sr esq ave blvd rd inc ltd corp dept assn bros univ "
    "hrs".split()
)
DAYS_AND_MONTHS = frozenset(
    "mon tue tues wed thu thurs fri sat sun jan feb mar apr jun jul aug sep sept oct nov "
    "dec".split()
)
NAMES = frozenset("sun sat mar jan jun".split())  # those that are also words or names
