"""The exercises themselves, as data: by name, in the order of the course."""

from kdlab.exercises.catalogue import (
    calibration,
    decoupled,
    features,
    logits,
    questions,
    reading,
    relations,
    teachers,
)
from kdlab.exercises.exercise import Exercise, Question

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for part in (logits, decoupled, features, relations, teachers, reading, calibration)
    for exercise in part.EXERCISES
}
"""Functions to write."""

QUESTIONS: dict[str, Question] = {question.name: question for question in questions.QUESTIONS}
"""Numbers and choices to work out."""
