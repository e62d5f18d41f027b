"""`{{ chart|figure }}`"""

from django import template

from conversations.charts.drawing import figure

register = template.Library()
register.filter(figure)
