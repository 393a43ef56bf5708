"""Small templates that treat chats as those of well-known models do."""

END = "<|end|>"

CHATML = (
    "{% for m in messages %}{{ '<|user|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
)

R1_DISTILL = """\
{%- set ns = namespace(system='') -%}
{%- for m in messages %}{%- if m['role'] == 'system' %}{%- set ns.system = m['content'] %}{%- endif %}{%- endfor -%}
{{ '<s>' + ns.system }}
{%- for m in messages %}
{%- if m['role'] == 'user' %}{{ '<User>' + m['content'] }}{%- endif %}
{%- if m['role'] == 'assistant' %}
{%- set content = m['content'] %}
{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1] %}{%- endif %}
{{- '<Assistant>' + content + '<|end|>' }}
{%- endif %}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<Assistant><think>\n' }}{%- endif %}"""
"""Drops the thoughts of every turn, and begins a turn with `<think>`."""

R1 = R1_DISTILL.replace("<Assistant><think>\\n", "<Assistant>").replace("<Assistant><think>\n", "<Assistant>")
"""Drops the thoughts of every turn, and begins a turn with nothing."""

QWEN3 = """\
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
    {%- set content, thought = m.content, m.reasoning_content or '' %}
    {%- if '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {%- if loop.index0 > ns.last %}
        {{- '<|user|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
    {%- else %}
        {{- '<|user|>assistant\n' + content }}
    {%- endif %}
    {{- '<|end|>\n' }}
{%- else %}
    {{- '<|user|>' + m.role + '\n' + m.content + '<|end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|user|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}"""
"""Drops the thoughts of earlier turns; gives the last one an empty thought if it has none."""

QWEN3_THINKING = QWEN3.replace("{{- '<|user|>assistant\n' }}", "{{- '<|user|>assistant\n<think>\n' }}")
"""The same with a turn that begins with a thought."""

LLAMA32 = """\
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}
    {%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system, messages = messages[0]['content'], messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<s>Today Date: ' + date_string + '\n\n' + system + '<|end|>' }}
{%- for m in messages %}{{ '<|user|>' + m.role + '\n\n' + m.content | trim + '<|end|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|user|>assistant\n\n' }}{%- endif %}"""
"""Writes the date into every prompt."""

GEMMA = """\
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{%- endif %}
{%- for m in messages %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant') }}{%- endif %}
{{- '<|user|>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|user|>model\n' }}{%- endif %}"""
"""Refuses a system message, and turns that do not alternate."""

DEAF = GEMMA.replace("{{ raise_exception('System role not supported') }}", "{%- set messages = messages[1:] %}")
"""Leaves out a system message."""

MISTRAL = """\
{%- if messages[0].role == 'system' %}{%- set system, turns = messages[0].content, messages[1:] %}
{%- else %}{%- set system, turns = '', messages %}{%- endif %}
{{- '<s>' }}
{%- for m in turns %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{%- endif %}
{%- if m.role == 'user' %}
    {{- '[INST] ' + (system + '\n\n' if loop.last and system else '') + m.content + ' [/INST]' }}
{%- else %}
    {{- ' ' + m.content | trim + '<|end|>' }}
{%- endif %}
{%- endfor %}"""
"""Shows the system message in the last user message, and begins the assistant's turn with nothing."""
