//! `geo_distance_m(lat1, lon1, lat2, lon2)`: the great-circle distance in metres.

use arrow::array::{Array, ArrayRef, Float64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion_common::Result;
use datafusion_common::cast::as_primitive_array;
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;

/// The Earth's mean radius in metres (IUGG).
const RADIUS_M: f64 = 6_371_008.8;

pub(super) fn geo_distance_m() -> Arc<ScalarUDF> {
    let signature = Signature::exact(vec![DataType::Float64; 4], Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(GeoDistance { signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct GeoDistance {
    signature: Signature,
}

impl ScalarUDFImpl for GeoDistance {
    fn name(&self) -> &str {
        "geo_distance_m"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }
    fn is_strict(&self) -> bool {
        true
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), DataType::Float64, nullable)))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays: Vec<ArrayRef> =
            args.args.iter().map(|arg| arg.to_array(args.number_rows)).collect::<Result<_>>()?;
        let columns: Vec<&Float64Array> =
            arrays.iter().map(|array| as_primitive_array::<Float64Type>(array)).collect::<Result<_>>()?;
        let distances: Float64Array = (0..args.number_rows)
            .map(|row| {
                let at = |column: usize| {
                    columns.get(column).filter(|values| values.is_valid(row)).map(|values| values.value(row))
                };
                Some(distance(at(0)?, at(1)?, at(2)?, at(3)?))
            })
            .collect();
        Ok(ColumnarValue::Array(Arc::new(distances)))
    }
}

/// Haversine: exact enough for near points, where the law of cosines is not.
fn distance(lat1: f64, lon1: f64, lat2: f64, lon2: f64) -> f64 {
    let half = |from: f64, to: f64| ((to - from).to_radians() / 2.0).sin();
    let (up, along) = (half(lat1, lat2), half(lon1, lon2));
    let chord = up * up + lat1.to_radians().cos() * lat2.to_radians().cos() * along * along;
    // Not `min`, which would take 1 rather than NaN.
    let root = chord.sqrt();
    2.0 * RADIUS_M * if root > 1.0 { 1.0 } else { root }.asin()
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn known_distances() {
        let near = |got: f64, want: f64| assert!((got - want).abs() < want * 1e-3 + 1e-6, "{got} is not {want}");
        near(distance(52.52, 13.405, 48.8566, 2.3522), 877_500.0); // Berlin to Paris
        near(distance(0.0, 0.0, 0.0, 180.0), 20_015_114.0);
        near(distance(10.0, 20.0, 10.0, 20.0), 0.0);
        assert!(distance(f64::NAN, 0.0, 0.0, 0.0).is_nan());
    }
}
