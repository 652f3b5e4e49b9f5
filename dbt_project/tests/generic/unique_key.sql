{#- No two rows have the same values in these columns; null counts as a value. -#}
{% test unique_key(model, columns) %}

select
    {{ columns | join(', ') }},
    count(*) as repeated
from {{ model }}
group by {{ columns | join(', ') }}
having count(*) > 1

{% endtest %}
