"""The judgement of a message as expressions of Spark SQL: reasons and order are those of transactions_parsed_mv.sql."""

import secrets

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

FIELDS = ("transaction_id", "merchant_id", "amount", "currency", "status", "created_at", "updated_at")

CODES = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW
    CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL
    HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA
    MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD
    RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD
    USN UYI UYU UYW UZS VED VES VND VUV WST XAD XAF XAG XAU XBA XBB XBC XBD XCD XCG XDR XOF XPD XPF XPT XSU XTS XUA XXX
    YER ZAR ZMW ZWG ANG BGN CUC HRK SLL ZWL
"""
CURRENCIES = CODES.split()
STATUSES = ("authorized", "captured", "settled", "refunded", "charged_back", "failed")

# Java's $ also matches before a last line break, so every pattern ends in \z.
UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\z"
MERCHANT = r"^[1-9][0-9]{0,9}\z"
AMOUNT = r"^(?:0|[1-9][0-9]{0,13})(?:[.][0-9]{1,4})?\z"
RFC3339 = (
    r"^[1-9][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])[T ](?:[01][0-9]|2[0-3]):"
    r"(?:[0-5][0-9]:[0-5][0-9]|[25]9:60)(?:[.][0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])\z"
)

# Spark's reader is lenient unless told.
JSON_OPTIONS = "map('allowSingleQuotes', 'false', 'allowNonNumericNumbers', 'false')"


def judged(messages: DataFrame) -> DataFrame:
    """Return one row for each message that is not empty: its ``fault`` ('' for a good one), fields and provenance.

    Total: any bytes give a row. Needs a session without ANSI mode, in UTC. ``raw`` and ``kafka_key`` are null where
    they are not needed, which spares carrying them.
    """
    # A parser stops where the value ends, whatever follows. So each message is read as the first of an array of two,
    # whose second no message can know.
    end = secrets.token_hex(8)
    wrapped = f"""concat('[', text, ',{{"~":"{end}"}}]')"""
    struct = ", ".join(f"{name} {'variant' if name == 'amount' else 'string'}" for name in FIELDS)
    # An amount that is a JSON number: its own digits, if they alone can be meant.
    literals = """array_distinct(regexp_extract_all(text, r'"amount"\\s*:\\s*([0-9][0-9.eE+-]*)', 1))"""
    rows = (
        messages.where("octet_length(value) > 0")
        .selectExpr("*", "cast(if(startswith(value, X'EFBBBF'), substring(value, 4), value) AS string) AS text")
        .selectExpr(
            "*",
            f"from_json({wrapped}, 'array<struct<{struct}, `~` string>>', {JSON_OPTIONS}) AS pair",
            "json_object_keys(text) AS keys",
        )
        .selectExpr(
            "*",
            f"is_valid_utf8(text) AND size(pair) = 2 AND pair[1].`~` = '{end}' AND pair[0] IS NOT NULL AS is_object",
            "pair[0] AS field",
        )
        .selectExpr(
            "*",
            *(f"coalesce(field.{name}, '') AS {name}_text" for name in FIELDS[:5] if name != "amount"),
            *(f"upper(coalesce(field.{name}, '')) AS {name}_text" for name in FIELDS[5:]),
            "coalesce(cast(field.amount AS string), '') AS amount_seen",
            f"""CASE
                WHEN schema_of_variant(field.amount) = 'STRING' THEN cast(field.amount AS string)
                WHEN size({literals}) = 1
                    AND cast({literals}[0] AS double) = cast(cast(field.amount AS string) AS double)
                    AND NOT text RLIKE r'\\\\u[^"]*"\\s*:' THEN {literals}[0]
                ELSE ''
            END AS amount_text""",
        )
        .selectExpr(
            "*",
            f"if(merchant_id_text RLIKE r'{MERCHANT}', cast(merchant_id_text AS bigint), 0) AS merchant_id",
            f"if(amount_text RLIKE r'{AMOUNT}', cast(amount_text AS decimal(18, 4)), NULL) AS amount",
            f"{_moment('created_at_text')} AS created_at",
            f"{_moment('updated_at_text')} AS updated_at",
        )
    )
    both = f"from_json({wrapped}, 'array<string>', {JSON_OPTIONS})"
    is_json = f"""is_valid_utf8(text) AND size({both}) = 2 AND element_at({both}, 2) = '{{"~":"{end}"}}'"""
    fault = f"""
        CASE
            WHEN NOT coalesce(is_object, false) THEN if({is_json}, 'not_an_object', 'not_json')
            -- ClickHouse's parser refuses a number that no double holds.
            WHEN cast({literals}[0] AS double) = double('Infinity') THEN 'not_json'
            WHEN size(keys) != size(array_distinct(keys)) THEN 'duplicate_field'

            WHEN transaction_id_text = '' THEN 'transaction_id_missing'
            WHEN NOT transaction_id_text RLIKE r'{UUID}' THEN 'transaction_id_malformed'

            WHEN merchant_id_text = '' THEN 'merchant_id_missing'
            WHEN merchant_id NOT BETWEEN 1 AND 4294967295 THEN 'merchant_id_malformed'

            WHEN amount_seen = '' THEN 'amount_missing'
            WHEN amount IS NULL THEN 'amount_malformed'
            WHEN amount = 0 THEN 'amount_not_positive'

            WHEN currency_text = '' THEN 'currency_missing'
            WHEN currency_text NOT IN ({_quoted(CURRENCIES)}) THEN 'currency_unknown'

            WHEN status_text = '' THEN 'status_missing'
            WHEN status_text NOT IN ({_quoted(STATUSES)}) THEN 'status_unknown'

            {_time_faults("created_at")}
            {_time_faults("updated_at")}
            ELSE ''
        END"""
    return (
        rows.selectExpr(
            f"{fault} AS fault",
            "transaction_id_text AS transaction_id",
            "merchant_id",
            "amount",
            "currency_text AS currency",
            "status_text AS status",
            "created_at",
            "updated_at",
            "value",
            "key",
            "partition AS kafka_partition",
            "offset AS kafka_offset",
            "timestamp AS kafka_timestamp",
        )
        .select(
            "*",
            F.expr("if(fault = '', NULL, value) AS raw_message"),
            F.expr("if(fault = '', NULL, coalesce(key, X'')) AS kafka_key"),
        )
        .drop("value", "key")
    )


def _moment(text: str) -> str:
    """Return the expression of a time, NULL if it is malformed.

    Spark's cast knows no leap second, which is stored as the second after it, and no offset beyond 18 hours.
    """
    offset = f"cast(substr({text}, -5, 2) AS int) * 60 + cast(right({text}, 2) AS int)"
    local = f"cast(concat(replace(regexp_replace({text}, '(Z|[+-][0-9:]+)$', ''), ':60', ':59'), 'Z') AS timestamp)"
    return f"""
        CASE
            WHEN NOT {text} RLIKE r'{RFC3339}' THEN NULL
            WHEN endswith({text}, 'Z') AND substr({text}, 18, 2) != '60' THEN cast({text} AS timestamp)
            ELSE timestamp_micros(
                unix_micros({local}) + if(substr({text}, 18, 2) = '60', 1000000L, 0L)
                - CASE WHEN endswith({text}, 'Z') THEN 0L
                    WHEN substr({text}, -6, 1) = '-' THEN -60000000L
                    ELSE 60000000L END
                * if(endswith({text}, 'Z'), 0, {offset})
            )
        END"""


def _time_faults(name: str) -> str:
    return f"""
            WHEN {name}_text = '' THEN '{name}_missing'
            WHEN {name} IS NULL THEN '{name}_malformed'
            WHEN {name} > current_timestamp() + INTERVAL 5 MINUTES THEN '{name}_in_future'
            WHEN {name} < date_trunc('MONTH', current_timestamp()) - INTERVAL 96 MONTHS THEN '{name}_too_old'"""


def _quoted(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
