{#- Lamports over compute units in whole micro-lamports, rounded down; null without units. Integers throughout. -#}
{%- macro micro_lamports_per_unit(lamports, units) -%}
    cast(cast({{ lamports }} as hugeint) * 1000000 // nullif({{ units }}, 0) as decimal(38, 0))
{%- endmacro -%}
