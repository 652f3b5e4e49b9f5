{#- The UTC day of an instant, whatever time zone the session has. -#}
{%- macro day_of(instant) -%}
    cast(make_timestamp(epoch_us({{ instant }})) as date)
{%- endmacro -%}
